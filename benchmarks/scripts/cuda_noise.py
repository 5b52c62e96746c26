"""PyTorch's normal numbers on a CUDA device, compared with the runtime's stream of them.

    python benchmarks/scripts/cuda_noise.py

Prints JSON. `latentrt.runtime.noise.philox` was written without a GPU; this verifies it, and the
numbers that the device gave can be kept as reference values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.runtime.noise.philox import PhiloxNoise

Draw = Callable[[int, Sequence[tuple[int, ...]]], list[NDArray[np.float32]]]
"""A seed and the shapes of successive calls, to what each of these calls gives."""

CASES: Final[tuple[tuple[int, tuple[tuple[int, ...], ...]], ...]] = (
    (0, ((1, 4, 64, 64),)),
    (7, ((1, 4, 64, 64), (1, 4, 64, 64), (4, 64, 64))),
    (2**32 + 5, ((1, 4, 128, 128),)),
    # Sizes that end within a thread's four numbers.
    (3, ((5,), (1025,), (4, 17, 9))),
    # More numbers than any device has threads: each thread makes several.
    (2**63 - 1, ((8, 4, 128, 128), (16, 4, 256, 256))),
)
TOLERANCE: Final = 2e-5
"""Of one number: a device's sine is approximate, some 2^-21 off, and a radius is at most 6.7.

Numbers of another stream are off by more than 1.
"""


def compare(draw: Draw, threads: int) -> dict[str, Any]:
    """What a device with that many threads gives in every case, and whether the stream agrees."""
    cases: list[dict[str, Any]] = []
    for seed, shapes in CASES:
        stream = PhiloxNoise(seed, threads=threads)
        for shape, theirs in zip(shapes, draw(seed, shapes), strict=True):
            ours = stream.normal(shape).astype(np.float64)
            sha256 = hashlib.sha256(np.ascontiguousarray(theirs).tobytes()).hexdigest()
            off = float(np.abs(ours - theirs).max())
            cases.append({"seed": str(seed), "shape": shape, "max_abs": off, "sha256": sha256})
    worst = max(case["max_abs"] for case in cases)
    agreed = {"agrees": worst <= TOLERANCE, "max_abs": worst, "tolerance": TOLERANCE}
    return {**agreed, "threads": threads, "cases": cases}


def on_device() -> dict[str, Any]:
    """Of this machine's CUDA device; `found` is false without one."""
    try:
        import torch
    except ImportError as error:
        return {"found": False, "problem": f"PyTorch is not installed ({error})"}
    if not torch.cuda.is_available():
        return {"found": False, "problem": f"PyTorch {torch.__version__} sees no CUDA device"}
    device = torch.cuda.get_device_properties(0)

    def draw(seed: int, shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.float32]]:
        generator = torch.Generator("cuda").manual_seed(seed)
        drawn = [torch.randn(s, generator=generator, device="cuda") for s in shapes]
        return [tensor.cpu().numpy() for tensor in drawn]

    threads = device.multi_processor_count * device.max_threads_per_multi_processor
    about = {"found": True, "device": device.name, "torch": torch.__version__}
    return about | compare(draw, threads)


if __name__ == "__main__":
    print(json.dumps(on_device(), indent=1))
