"""A report made by hand, in which nothing is missing."""

from __future__ import annotations

from latentrt.benchmarks.latency.ceilings import Ceilings
from latentrt.benchmarks.latency.cold import ColdStart
from latentrt.benchmarks.latency.load import Arrivals, Throughput
from latentrt.benchmarks.latency.nvml import GpuState
from latentrt.benchmarks.latency.report import Errors, Report
from latentrt.benchmarks.latency.roofline import Roofline
from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.memory import Memory
from latentrt.benchmarks.samples import Samples
from latentrt.runtime import Request, Sampling

GPU = GpuState("A GPU", "580.1", 1400.0, None, 250.5, 88, 9 * 10**9, None, ("SwPowerCap",), 3)
REQUEST = Request("a red circle", seed=0, sampling=Sampling(steps=2), guidance=7.5)
REPORT = Report(
    workload={
        "bundle": "b",
        "source": "somebody's",
        "dtype": "float32",
        "engine": {"engine": "auto", "precision": "auto", "options": {"streams": 1}},
        "request": REQUEST.to_json(),
        "size": "64x64",
        "sampler": "ddim",
        "rows": 2,
    },
    engines={"unet": "tensorrt"},
    precisions={"unet": "fp16"},
    machine=Machine("A CPU", ("avx2",), 2, "Linux", "3.11.7", {"openvino": "2026.4.1"}),
    load={"before": [0.0], "after": []},
    gpu=GPU,
    rows={
        "image": Samples.of([2.0, 2.0, 2.4]),
        "text": Samples.of([0.1]),
        "step": Samples.of([0.9, 0.9]),
        "decode": Samples.of([0.1]),
        "runtime": Samples.of([0.01]),
        "unet call": Samples.of([0.8, 0.8]),
    },
    memory=Memory(3_140_000_000, 2_710_000_000),
    cold=(
        ColdStart("empty", problem="ended by SIGKILL"),
        ColdStart("filled", False, 0.25, 0.5, 1.0, 2.0, None),
    ),
    ceilings={"tensorrt fp16": Ceilings(1e12, None)},
    rooflines={"unet": Roofline(10**12, 10, 1.25e12, 1.0, 1.25, "arithmetic")},
    throughput=(
        Throughput(None, 1, 2.5, Samples.of([0.4, 0.4]), 0.0),
        Throughput(2, 2, 4.0, Samples.of([0.5, 0.5]), 2.5e-6),
    ),
    arrivals=(
        Arrivals("one at a time", 1.25, Samples.of([0.4, 0.8])),
        Arrivals("batches up to 2", 1.25, Samples.of([0.5, 0.5])),
    ),
    errors=Errors({"unet": 1.23e-4, "steps": 4.56e-3, "prompts": 7.89e-5}, 60.0),
    notes=("cold start, empty cache: ended by SIGKILL",),
)
