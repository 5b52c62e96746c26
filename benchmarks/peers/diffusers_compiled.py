"""diffusers compiled: torch.compile of the U-Net and of the VAE's decoder, where the time goes.

As its documentation has it: channels-last weights, the three projections of an attention fused into
one, the whole graph of each module in one piece. The first picture compiles; PyTorch caches what it
compiled in the user's temporary folder.

https://huggingface.co/docs/diffusers/optimization/fp16
"""

# pyright: basic

from __future__ import annotations

from diffusers_pipeline import drawing, load, noise
from serving import Peer, Spec, main

PACKAGES = ("torch", "diffusers", "transformers", "numpy")


def ready(spec: Spec) -> Peer:
    import torch
    import torch._inductor.config as inductor

    pipe = load(spec)
    pipe.fuse_qkv_projections()
    # On a GPU the mode that tries kernels and records CUDA graphs. On a CPU it records nothing, but
    # would try C++ templates of matrix products (fp32, bf16) beside the library's: that was not
    # tried here. Weights are frozen there, so that they are laid out once as oneDNN wants them.
    mode = "max-autotune" if spec.device == "cuda" else "default"
    if spec.device == "cpu":
        inductor.freezing = True
    pipe.unet = torch.compile(pipe.unet, mode=mode, fullgraph=True)
    pipe.vae.decode = torch.compile(pipe.vae.decode, mode=mode, fullgraph=True)
    settings = {
        "attention": "scaled_dot_product_attention, fused QKV",
        "memory_format": "channels_last",
        "dtype": spec.precision,
        "compiled": f"unet, vae.decode: torch.compile, mode {mode}, fullgraph",
        "freezing": str(spec.device == "cpu"),
    }
    return Peer(drawing(pipe, spec, noise(spec)), settings, PACKAGES)


if __name__ == "__main__":
    main(ready)
