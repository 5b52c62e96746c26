"""How far engines may be from PyTorch in fp32, by precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest relative error of a component's outputs and of a run's latents; least PSNR in dB.

    `alone` is for a step from the reference's own latents and prompts, `step` for one of a run.
    """

    text_encoder: float
    unet: float
    vae: float
    alone: float
    step: float
    psnr: float

    def of(self, component: str) -> float:
        """The tolerance of a component by name."""
        if component.startswith("text_encoder"):
            return self.text_encoder
        return self.vae if component.startswith("vae") else self.unet


TOLERANCES: Final[Mapping[str, Tolerance]] = {
    # fp32: rounding alone. Components: at most twice the largest error measured. That is over the
    # tests' tiny models, models/shapes, random:sd15 at 512x512 and random:sdxl's U-Net at 128x128.
    # Text encoder 8.4e-7, U-Net 3.5e-6, VAE 2.0e-5. The last is ONNX Runtime at 512x512, whose
    # GroupNormalization adds up a group of 2 million numbers in one running sum (alone 5e-5 off a
    # sum in double precision, PyTorch 6e-8); OpenVINO's VAE is 2.5e-6 off. A step alone is one
    # evaluation, whose error guidance multiplies. It was measured over the tiny models,
    # models/shapes and random:sd15 at 256x256, with goldens and other prompts in 1 to 20 steps.
    # ONNX Runtime is 3.0e-6 off at most (without random:sd15), OpenVINO 7.4e-6 (random:sd15 in 1
    # step; in 4, 5.9e-6; the others in 4, 1.9e-6). A step of a run carries the errors of those
    # before it too.
    "fp32": Tolerance(
        text_encoder=1.6e-6, unet=5.5e-6, vae=4e-5, alone=1.4e-5, step=1e-4, psnr=55.0
    ),
    # Half a unit in the last place is 5e-4. Components: twice the error of PyTorch's own
    # fp16 on a CPU with random:sd15, 1.15e-3, 1.5e-3 and 1.4e-3 (its bf16: 1.0e-2, 1.5e-2, 1.2e-2).
    # No GPU was measured. Steps and a picture are estimates.
    "fp16": Tolerance(text_encoder=2.3e-3, unet=3e-3, vae=2.7e-3, alone=2e-2, step=5e-2, psnr=35.0),
    # Half a unit in the last place is 4e-3. Measured as fp32 was: 7.4e-3, 1.3e-2 (random:sd15 at
    # 512x512; random:sdxl at 256x256 6.7e-3), 1.8e-2. A step alone: 4.7e-2 (v-prediction in 1 step,
    # from noise alone; random:sd15 2.9e-2), in 4 steps 2.3e-2.
    "bf16": Tolerance(
        text_encoder=1.4e-2, unet=2.6e-2, vae=3.6e-2, alone=9e-2, step=2e-1, psnr=25.0
    ),
}
