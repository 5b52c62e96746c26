"""latentrt beside its peers: a pipeline over a bundle, in one engine and precision."""

# pyright: basic

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from serving import Peer, Picture, Spec, main

PACKAGES = ("latentrt", "numpy", "onnxruntime", "openvino")
PARTS = {"unet": "unet", "vae_decoder": "decode"}


def ready(spec: Spec) -> Peer:
    import numpy

    from latentrt.benchmarks.latency.timed_pipeline import TimedPipeline
    from latentrt.runtime import Request, Sampling, Size

    engine = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["engine"]
    options = {} if spec.threads is None else {"threads": spec.threads}
    pipeline = TimedPipeline.open(
        spec.model, engine=engine, precision=spec.precision, options=options
    )
    request = Request(
        spec.prompt,
        syntax="plain",
        negative_prompt=spec.negative_prompt,
        size=Size(spec.width, spec.height),
        seed=0,  # the noise is given
        sampling=Sampling(spec.sampler, steps=spec.steps),
        guidance=spec.guidance_scale,
        latents=spec.noise(),
    )

    def draw() -> Picture:
        times, result = pipeline.image(request)
        stages: dict[str, Any] = {"text": 0.0, "unet": 0.0, "decode": 0.0}
        for component, calls in times.calls.items():
            stages[PARTS.get(component, "text")] += sum(calls)
        return Picture(numpy.asarray(result.images[0]), stages)

    settings = {**pipeline.engines, "precision": pipeline.precisions["unet"]}
    return Peer(draw, settings, PACKAGES)


if __name__ == "__main__":
    main(ready)
