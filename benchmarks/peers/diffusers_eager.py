"""diffusers as its users run it: eager PyTorch.

Attention is PyTorch's scaled-dot-product attention, diffusers' default and its fused one. Weights
are channels-last, the layout that oneDNN's and cuDNN's convolutions are written for. No safety
checker.

https://huggingface.co/docs/diffusers/optimization/fp16
"""

# pyright: basic

from __future__ import annotations

from diffusers_pipeline import drawing, load, noise
from serving import Peer, Spec, main

PACKAGES = ("torch", "diffusers", "transformers", "numpy")


def ready(spec: Spec) -> Peer:
    pipe = load(spec)
    settings = {
        "attention": "scaled_dot_product_attention",
        "memory_format": "channels_last",
        "dtype": spec.precision,
    }
    return Peer(drawing(pipe, spec, noise(spec)), settings, PACKAGES)


if __name__ == "__main__":
    main(ready)
