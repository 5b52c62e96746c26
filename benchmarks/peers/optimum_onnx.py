"""optimum-onnx: the pipeline of diffusers over ONNX Runtime.

The models are what `optimum-cli export onnx` makes by default; its levels O1 to O4 know no
diffusion models. ONNX Runtime optimises them as far as it can, with a thread for every core, its
default.

https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/models
"""

# Installed in an environment of its own only.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from typing import Any

from diffusers_pipeline import drawing, set_scheduler
from serving import Peer, Spec, main

PACKAGES = ("optimum-onnx", "onnxruntime", "diffusers", "transformers", "torch", "numpy")


def ready(spec: Spec) -> Peer:
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    if spec.threads is not None:
        options.intra_op_num_threads = spec.threads
    pipe: Any = ORTStableDiffusionPipeline.from_pretrained(
        spec.model,
        provider="CPUExecutionProvider",
        session_options=options,
    )
    set_scheduler(pipe, spec.sampler)
    settings = {
        "provider": "CPUExecutionProvider",
        "graph_optimization_level": "ORT_ENABLE_ALL",
        "io_binding": str(pipe.use_io_binding),
        "dtype": spec.precision,
    }
    return Peer(drawing(pipe, spec, torch.from_numpy(spec.noise())), settings, PACKAGES)


if __name__ == "__main__":
    main(ready)
