"""A denoiser under ControlNets: their rows come first, then the U-Net's with what they add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.spec import TensorSpec
from latentrt.runtime.control import CONTROL, PROMPT, Control
from latentrt.runtime.denoiser import Denoiser
from latentrt.runtime.rows import Arrays, Evaluation, Model, Need, Outputs, Row
from latentrt.runtime.samplers.denoise import Denoise
from latentrt.runtime.schedules.schedule import Position, Schedule
from latentrt.weights.control_specs import DOWN, DOWN_ADDED, MID, MID_ADDED

_FADING: Final = 0.825
"""From one residual to the next, in mode "prompt".

Source: `soft_weighting` of github.com/Mikubill/sd-webui-controlnet, 0.825 ** (12 - i) for the 13
residuals of Stable Diffusion 1.
"""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedControl:
    """A control of a request: its ControlNet, and its picture as the hint encoder gave it.

    `hint` is float32 [c, h, w]. With `pooled`, residuals are averaged over their places, and act on
    the prompt's rows alone.
    """

    control: Control
    model: Model
    hint: NDArray[np.float32]
    pooled: bool = False

    @property
    def spares_negative(self) -> bool:
        """Whether nothing is added to the rows of the negative prompt."""
        return self.pooled or self.control.mode == CONTROL

    def residuals(self, outputs: Outputs) -> list[NDArray[np.float32]]:
        """What it adds at each skip connection, then in the middle; float32.

        Source: `ControlNetModel.forward` of diffusers, from the comment "scaling" on.
        """
        count = sum(name.startswith(DOWN) for name in outputs)
        arrays = [*(outputs[f"{DOWN}.{i}"] for i in range(count)), outputs[MID]]
        factors = self._factors(len(arrays)) * np.float32(self.control.scale)
        found = [array * factor for array, factor in zip(arrays, factors, strict=True)]
        return [_pooled(array) for array in found] if self.pooled else found

    def _factors(self, count: int) -> NDArray[np.float32]:
        if self.control.mode == CONTROL and not self.pooled:
            return np.logspace(-1, 0, count, dtype=np.float32)
        if self.control.mode == PROMPT:
            return (_FADING ** np.arange(count - 1, -1, -1)).astype(np.float32)
        return np.ones(count, np.float32)


class ControlledDenoiser:
    """A denoiser whose rows of `unet` become rows of `controlled`, with ControlNets' residuals.

    Where no control acts, zeros are added. So one U-Net serves all of a run. Rows of other models
    stay as they are.
    """

    def __init__(
        self,
        inner: Denoiser,
        unet: Model,
        controlled: Model,
        controls: Sequence[EncodedControl],
    ) -> None:
        self._inner = inner
        self._unet = unet
        self._controlled = controlled
        self._controls = tuple(controls)
        known = (DOWN_ADDED, MID_ADDED)
        self._specs = [spec for spec in controlled.inputs if spec.name.startswith(known)]
        # A row's constant arrays with the hint, by the row's: the same objects at every step.
        self._constant: dict[tuple[int, int], tuple[Arrays, Arrays]] = {}

    def __call__(
        self, asked: Denoise, at: Position, channels: NDArray[np.float32] | None = None
    ) -> Evaluation[NDArray[np.float32]]:
        """Evaluate a latent as the inner denoiser does, with what the ControlNets add."""
        evaluation = self._inner(asked, at, channels)
        rows = next(evaluation)
        while True:
            outputs = yield from self._evaluated(rows, at)
            try:
                rows = evaluation.send(outputs)
            except StopIteration as finished:
                return finished.value

    def of(self, image: int) -> ControlledDenoiser:
        """The same for one of the request's pictures."""
        inner = self._inner.of(image)
        if inner is self._inner:
            return self
        return ControlledDenoiser(inner, self._unet, self._controlled, self._controls)

    def needs(self, schedule: Schedule, shape: tuple[int, int]) -> frozenset[Need]:
        """What the inner denoiser needs, with the ControlNets and the controlled U-Net."""
        found: set[Need] = set()
        for need in self._inner.needs(schedule, shape):
            if need.model is not self._unet:
                found.add(need)
                continue
            found.add(replace(need, model=self._controlled))
            for each in self._controls:
                rows = need.rows - 1 if each.spares_negative and need.rows > 1 else need.rows
                found.add(replace(need, model=each.model, rows=rows))
        return frozenset(found)

    def _evaluated(self, rows: Sequence[Row], at: Position) -> Evaluation[Sequence[Outputs]]:
        """The outputs of rows, those of the U-Net under the controls that act."""
        asked = [
            (place, each, self._control_row(each, row))
            for each in self._controls
            if each.control.active(at.evaluation, at.evaluations)
            for place, row in enumerate(rows)
            if row.model is self._unet and not (each.spares_negative and row.negative)
        ]
        added: dict[int, list[NDArray[np.float32]]] = {}
        if asked:
            answers = yield [row for _, _, row in asked]
            for (place, each, _), outputs in zip(asked, answers, strict=True):
                found = each.residuals(outputs)
                before = added.get(place)
                added[place] = found if before is None else _sum(before, found)
        outputs = yield [self._with(row, added.get(place)) for place, row in enumerate(rows)]
        return outputs

    def _control_row(self, each: EncodedControl, row: Row) -> Row:
        names = {spec.name: spec for spec in each.model.inputs}
        channels = names["sample"].dims[1]
        changing = {name: array for name, array in row.changing.items() if name in names}
        assert isinstance(channels, int)
        # What follows the latent, such as a mask, is for the U-Net alone.
        changing["sample"] = changing["sample"][:channels]
        return Row(each.model, changing, self._constant_of(each, row.constant, names))

    def _constant_of(
        self, each: EncodedControl, constant: Arrays, names: Mapping[str, TensorSpec]
    ) -> Arrays:
        key = (id(each), id(constant))
        kept = self._constant.get(key)
        if kept is None:
            known = {name: array for name, array in constant.items() if name in names}
            # It keeps the row's own, whose id nothing else can have meanwhile.
            kept = self._constant[key] = (constant, {**known, "hint": each.hint})
        return kept[1]

    def _with(self, row: Row, added: Sequence[NDArray[np.float32]] | None) -> Row:
        if row.model is not self._unet:
            return row
        sizes = self._sizes(row)
        arrays = (
            [np.zeros(spec.shape(sizes)[1:], np.float32) for spec in self._specs]
            if added is None
            else [
                np.broadcast_to(a, spec.shape(sizes)[1:])
                for a, spec in zip(added, self._specs, strict=True)
            ]
        )
        named = {spec.name: array for spec, array in zip(self._specs, arrays, strict=True)}
        return replace(row, model=self._controlled, changing={**row.changing, **named})

    def _sizes(self, row: Row) -> dict[str, int]:
        _, height, width = row.changing["sample"].shape
        return {"batch": 1, "height": height, "width": width}


def _sum(
    first: Sequence[NDArray[np.float32]], second: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    return [a + b for a, b in zip(first, second, strict=True)]


def _pooled(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return array.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
