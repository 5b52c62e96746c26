"""A network so small that a batcher's own work is all there is, and a gate to hold it at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import NonFinite
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays
from latentrt.engines.function import FunctionEngine
from latentrt.runtime import Request, Result, Sampling, Size
from latentrt.runtime.denoiser import Condition, GuidedDenoiser
from latentrt.runtime.plan import Entry, Latent, Leg, PictureNoise, Plan
from latentrt.runtime.reusing_denoiser import reused
from latentrt.runtime.rows import Evaluation, Model, Row
from latentrt.runtime.schedules import build_schedule
from latentrt.runtime.vae import Decoded

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
WAIT = 60.0
"""Seconds after which a test gives up on another thread; none of them waits on purpose."""


INPUTS = (
    TensorSpec("sample", ("batch", 4, "height", "width")),
    TensorSpec("timestep", ("batch",)),
    TensorSpec("encoder_hidden_states", ("batch", 3, 2)),
)
LATENTS = (TensorSpec("latents", ("batch", 4, "height", "width")),)


class ToyPipeline:
    """A pipeline's stand-in: a network that is the same for every row, and a record of its calls.

    A prompt is a number, which its rows carry; the negative prompt's row carries minus it.
    """

    def __init__(
        self,
        before_call: Callable[[list[int]], None] = lambda _: None,
        before_decode: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.calls: list[list[int]] = []
        self.sizes: list[int] = []
        self.decodes: list[int] = []
        self.before_call = before_call
        self.before_decode = before_decode
        self.unet = Model("unet", INPUTS, self._unet)
        self.decoder = Model("vae_decoder", LATENTS, self._decoder)

    def plan(
        self, request: Request, *, batches: Sequence[int] = (1, 2), decodes: Sequence[int] = (1,)
    ) -> Plan:
        size = request.size or Size(64, 48)
        shape = (4, size.height // 8, size.width // 8)
        named = np.full((3, 2), int(request.prompt), np.float32)
        prompt = Condition({"encoder_hidden_states": named})
        negative = Condition({"encoder_hidden_states": -named})
        sampling = request.sampling
        schedule = build_schedule(CONFIG, steps=sampling.steps, sampler=sampling.sampler)

        def enter(_: Latent | None, noise: PictureNoise) -> Entry:
            return Entry(noise.begin(shape) * np.float32(schedule.init_scale))

        guidance = request.guidance
        denoiser = GuidedDenoiser(
            self.unet, (prompt,), negative if guidance.active else None, guidance
        )
        return Plan(
            request=request.with_values(size=size),
            legs=reused((Leg(schedule, denoiser, enter, shape),), request.reuse),
            decode=partial(decoded_by, self.decoder),
            model="numbers",
            batches={"unet": tuple(batches), "vae": tuple(decodes)},
        )

    def evaluate(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        prompts = [int(text[0, 0]) for text in inputs["encoder_hidden_states"]]
        self.before_call(prompts)
        self.calls.append(prompts)
        self.sizes.append(len(prompts))
        angle = inputs["timestep"] / 300.0 + inputs["encoder_hidden_states"][:, 0, 0]
        out = np.tanh(inputs["sample"] + np.cos(angle)[:, None, None, None])
        return {"model_output": out.astype(np.float32)}

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        self.before_decode(len(latents))
        self.decodes.append(len(latents))
        pixels = latents[:, :3].repeat(8, axis=2).repeat(8, axis=3)
        return np.tanh(pixels)

    def _unet(self, sizes: Mapping[str, int]) -> FunctionEngine:
        specs = tuple(spec.fixed(sizes) for spec in INPUTS)
        return FunctionEngine("unet", specs, (), lambda inputs: self.evaluate(inputs))

    def _decoder(self, sizes: Mapping[str, int]) -> FunctionEngine:
        specs = tuple(spec.fixed(sizes) for spec in LATENTS)
        return FunctionEngine(
            "vae_decoder", specs, (), lambda inputs: {"images": self.decode(inputs["latents"])}
        )


def decoded_by(decoder: Model, latent: Latent) -> Evaluation[Decoded]:
    """One latent's pixels, by a row of a decoder; raises `NonFinite` where they are no numbers."""
    (outputs,) = yield [Row(decoder, {"latents": latent})]
    if not np.isfinite(outputs["images"]).all():
        raise NonFinite("vae_decoder")
    return Decoded(outputs["images"])


class Gate:
    """Holds back a thread until it is opened, once or for good."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(0)
        self.reached = threading.Semaphore(0)
        self._open = False

    def __call__(self, *_: object) -> None:
        self.reached.release()
        if not self._open:
            assert self._permits.acquire(timeout=WAIT)

    def arrived(self) -> None:
        """Wait until somebody stands before it."""
        assert self.reached.acquire(timeout=WAIT)

    def let_one_pass(self) -> None:
        self._permits.release()

    def open(self) -> None:
        self._open = True
        self._permits.release()


def request(number: int, steps: int = 4, **values: Any) -> Request:
    """A request of the toy model's, its seed the number of its prompt."""
    sampler = values.pop("sampler", "euler")
    sampling = Sampling(sampler, steps=steps)
    return Request(str(number), **{"seed": number, "sampling": sampling, **values})


def equal(a: Result, b: Result) -> bool:
    """Whether latents and pictures are the same bit for bit."""
    pixels = zip(a.images, b.images, strict=True)
    return np.array_equal(a.latents, b.latents) and all(
        np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pixels
    )
