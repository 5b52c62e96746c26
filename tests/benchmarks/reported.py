"""A report made by hand, in which nothing is missing."""

from __future__ import annotations

import math

from latentrt.benchmarks.latency.batching import Goodput
from latentrt.benchmarks.latency.ceilings import Ceilings
from latentrt.benchmarks.latency.cold import Cold
from latentrt.benchmarks.latency.goodput import Curve, Point
from latentrt.benchmarks.latency.limits import Limit
from latentrt.benchmarks.latency.nvml import GpuState
from latentrt.benchmarks.latency.report import Report
from latentrt.benchmarks.latency.samples import Samples
from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.memory import Memory

GPU = GpuState("A GPU", "580.1", 1400.0, None, 250.5, 88, 9 * 10**9, None, ("SwPowerCap",), 3)
REQUEST = {
    "prompt": "a red circle",
    "negative_prompt": None,
    "size": None,
    "num_images": 1,
    "seed": 0,
    "sampling": {
        "sampler": None,
        "schedule": None,
        "steps": 2,
        "eta": None,
        "rho": None,
        "timesteps": None,
        "sigmas": None,
        "brownian": False,
    },
    "guidance": {"scale": 7.5, "rescale": 0.0, "interval": None},
    "clip_skip": 0,
    "latents": None,
    "composed": [],
    "generator": "torch",
    "original_size": None,
    "crop": [0, 0],
    "target_size": None,
}
OPTIONS = {
    "precision": "auto",
    "threads": None,
    "streams": None,
    "arena": True,
    "target": None,
    "level": 3,
    "stripped": False,
}
REPORT = Report(
    subject={
        "bundle": "b",
        "source": "somebody's",
        "dtype": "float32",
        "engine": "tensorrt",
        "options": OPTIONS,
        "components": {},
        "request": REQUEST,
        "size": "64x64",
        "sampler": "ddim",
        "rows": 2,
    },
    engines={"unet": "tensorrt"},
    precisions={"unet": "fp16"},
    machine=Machine("A CPU", (), 2, "Linux", "3.11.7", {}),
    load={"before": [0.0], "after": []},
    gpu=GPU,
    rows={
        "picture": Samples(((2.0,), (2.0,))),
        "text": Samples(((0.1,),)),
        "step": Samples(((0.9, 0.9),)),
        "decode": Samples(((0.1,),)),
        "own": Samples(((0.01,),)),
        "unet call": Samples(((0.8, 0.8),)),
    },
    memory=Memory(3_140_000_000, 2_710_000_000),
    cold=(
        Cold("empty", problem="ended by SIGKILL"),
        Cold("filled", True, 0.25, 0.5, 1.0, 2.0, None),
    ),
    ceilings={"tensorrt fp16": Ceilings(1e12, None)},
    limits={"unet": Limit(10**12, 10, 1.25e12, 1.0, 1.25, "arithmetic")},
    served=(
        Goodput(None, 2.5, 2.0, 3.0, 1.0, None, None, 4, (0.4,), 0.0),
        Goodput(2, 4.0, 3.0, 5.0, 1.5, 12, 0.75, 4, (0.25,), 2.5e-6),
    ),
    # Alone, 95 of 100 wait 0.2 s at most, then 0.6 s: half way to 0.4 s. Batched they wait 0.1 s.
    arrivals=(
        Curve(
            "one at a time",
            0.4,
            (Point(1.0, ((0.2, 0.2), (0.2, 0.2))), Point(2.0, ((0.6, 0.6), (0.6, 0.6)))),
        ),
        Curve("batched, up to 8", 0.4, (Point(3.5, ((0.1, 0.1), (0.1, 0.1))),)),
    ),
    errors={"unet": 1.23e-4, "steps": 4.56e-3, "prompts": 7.89e-5, "vae_decoder": 3.21e-6},
    picture_psnr=math.inf,
    notes=("cold start: ended by SIGKILL",),
)
