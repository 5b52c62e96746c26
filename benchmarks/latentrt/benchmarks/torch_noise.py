"""PyTorch's normal numbers on a CUDA device, held against the runtime's own stream of them.

    python -m latentrt.benchmarks.torch_noise --out FILE

Settles `latentrt.runtime.noise.philox`, which was written without a GPU at hand, and keeps what the
device gave as goldens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.runtime.noise.philox import PhiloxNoise

Draw = Callable[[int, Sequence[tuple[int, ...]]], list[NDArray[np.float32]]]
"""A seed and the shapes of calls in a row to what each of these calls gives."""

CASES: Final[tuple[tuple[int, tuple[tuple[int, ...], ...]], ...]] = (
    (0, ((1, 4, 64, 64),)),
    (7, ((1, 4, 64, 64), (1, 4, 64, 64), (4, 64, 64))),
    (2**32 + 5, ((1, 4, 128, 128),)),
    # Sizes that end within a thread's four numbers.
    (3, ((5,), (1025,), (4, 17, 9))),
    # More numbers than any device has threads: the threads share them out in turns.
    (2**63 - 1, ((8, 4, 128, 128), (16, 4, 256, 256))),
)
ALLOWED: Final = 2e-5
"""The largest difference of one number: a device's sine is approximate, some 2^-21 off, and a
radius is at most 6.7. Of another stream, some numbers are off by more than 1."""
_SHOWN: Final = 8


def settle(draw: Draw, threads: int) -> dict[str, Any]:
    """What a device with that many threads gives for every case, and whether our stream agrees."""
    cases = [
        {"seed": str(seed), "calls": _calls(seed, shapes, draw(seed, shapes), threads)}
        for seed, shapes in CASES
    ]
    worst = max(call["max_abs"] for case in cases for call in case["calls"])
    return {
        "threads": threads,
        "allowed": ALLOWED,
        "max_abs": worst,
        "agrees": worst <= ALLOWED,
        "cases": cases,
    }


def _calls(
    seed: int,
    shapes: Sequence[tuple[int, ...]],
    given: Sequence[NDArray[np.float32]],
    threads: int,
) -> list[dict[str, Any]]:
    stream = PhiloxNoise(seed, threads=threads)
    calls: list[dict[str, Any]] = []
    for shape, theirs in zip(shapes, given, strict=True):
        ours = stream.normal(shape)
        flat = theirs.ravel()
        calls.append(
            {
                "shape": list(shape),
                "max_abs": float(np.abs(ours.astype(np.float64) - theirs).max()),
                "same_bits": bool(np.array_equal(ours, theirs)),
                "first": [float(x) for x in flat[:_SHOWN]],
                "last": [float(x) for x in flat[-_SHOWN:]],
                "sha256": hashlib.sha256(np.ascontiguousarray(theirs).tobytes()).hexdigest(),
            }
        )
    return calls


def on_device() -> dict[str, Any]:
    """The verdict of this machine's CUDA device, or what is missing."""
    try:
        import torch
    except ImportError as error:
        problem = f"PyTorch is not installed ({error})"
        return {"found": False, "problem": problem, "remedy": "pip install torch"}
    if not torch.cuda.is_available():
        problem = f"PyTorch {torch.__version__} sees no CUDA device"
        return {"found": False, "problem": problem, "remedy": "a PyTorch that was built for CUDA"}
    device = torch.cuda.get_device_properties(0)

    def draw(seed: int, shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.float32]]:
        generator = torch.Generator("cuda").manual_seed(seed)
        drawn = [torch.randn(s, generator=generator, device="cuda") for s in shapes]
        return [tensor.cpu().numpy() for tensor in drawn]

    threads = device.multi_processor_count * device.max_threads_per_multi_processor
    about = {"found": True, "device": device.name, "torch": torch.__version__}
    return about | settle(draw, threads)


def main() -> None:
    """Ask the device, and write the verdict as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.write_text(json.dumps(on_device()), encoding="utf-8")


if __name__ == "__main__":
    main()
