"""OpenVINO GenAI: a pipeline in C++ over OpenVINO.

The models are what `optimum-cli export openvino --weight-format fp32` makes; what OpenVINO computes
in is a hint when they are compiled. A picture is RGB in 8 bits, cut off where others round, which
puts it 51 dB from theirs.

https://openvinotoolkit.github.io/openvino.genai/docs/use-cases/image-generation/
"""

# Installed in an environment of its own only.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving import Peer, Picture, Spec, main

PACKAGES = ("openvino-genai", "openvino", "openvino-tokenizers", "numpy")
HINTS = {"fp32": "f32", "bf16": "bf16"}


def ready(spec: Spec) -> Peer:
    import openvino_genai

    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": HINTS[spec.precision],
        "PERFORMANCE_HINT": "LATENCY",  # one picture at a time, all threads on it
    }
    if spec.threads is not None:
        properties["INFERENCE_NUM_THREADS"] = spec.threads
    pipe: Any = openvino_genai.Text2ImagePipeline(spec.model)
    kinds = openvino_genai.Scheduler.Type
    kind = {"ddim": kinds.DDIM, "euler": kinds.EULER_DISCRETE}[spec.sampler]
    config = Path(spec.model) / "scheduler" / "scheduler_config.json"
    pipe.set_scheduler(openvino_genai.Scheduler.from_config(config, kind))
    # Fixed shapes, which its documentation advises for speed, before it is compiled.
    pipe.reshape(1, spec.height, spec.width, spec.guidance_scale)
    pipe.compile("CPU", **properties)
    settings = {name: str(value) for name, value in properties.items()} | {"shapes": "fixed"}
    return Peer(_drawing(pipe, spec), settings, PACKAGES)


def _drawing(pipe: Any, spec: Spec) -> Any:
    import openvino
    import openvino_genai

    noise = spec.noise()

    class Given(openvino_genai.Generator):
        """The numbers of the spec; the pipeline scales in place what it is given."""

        def next(self) -> float:
            raise RuntimeError("only whole latents are drawn")

        def randn_tensor(self, shape: Any) -> Any:
            return openvino.Tensor(noise.reshape(list(shape)).copy())

    def draw() -> Picture:
        tensor = pipe.generate(
            spec.prompt,
            negative_prompt=spec.negative_prompt,
            height=spec.height,
            width=spec.width,
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            num_images_per_prompt=1,
            generator=Given(),
        )
        return Picture(tensor.data[0].copy(), _stages(pipe.get_performance_metrics()))

    return draw


def _stages(metrics: Any) -> dict[str, float]:
    # In milliseconds by its documentation; those of U-Net calls one by one in microseconds.
    text = sum(metrics.get_text_encoder_infer_duration().values())
    decode = metrics.get_vae_decoder_infer_duration()
    unet = sum(metrics.raw_metrics.unet_inference_durations)
    return {"text": text / 1e3, "unet": unet / 1e6, "decode": decode / 1e3}


if __name__ == "__main__":
    main(ready)
