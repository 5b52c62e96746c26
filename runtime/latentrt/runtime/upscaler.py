"""An upscaler of pictures, given as an ONNX file: ESRGAN and its kin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import FileError
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.function import FunctionEngine
from latentrt.engines.onnxruntime.session import package
from latentrt.runtime.pixels import Pixels
from latentrt.runtime.rows import Evaluation, Model, Need, Row

_RGB, _AXES = 3, 4
_IMAGES = "images"


@dataclass(frozen=True, slots=True, eq=False)
class Upscaler:
    """A network from RGB pictures to larger ones, on ONNX Runtime's CPU."""

    model: Model

    @staticmethod
    def open(path: Path) -> Upscaler:
        """Open an ONNX file; raises `FileError` for one that takes no pictures, `Unavailable`.

        It has one input and one output, float32 [n, 3, h, w] in [0, 1], of any height and width.
        """
        if not path.is_file():
            raise FileError(path, "no such file")
        try:
            session: Any = package("onnxruntime", "install latentrt[cpu]").InferenceSession(
                str(path), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # whatever the library says of a file that is no graph
            raise FileError(path, f"is not an ONNX file of an upscaler: {error}") from error
        inputs, outputs = session.get_inputs(), session.get_outputs()
        single = len(inputs) == 1 and len(outputs) == 1
        wanted = single and len(inputs[0].shape) == _AXES and inputs[0].shape[1] == _RGB
        if not wanted or inputs[0].type != "tensor(float)":
            got = ", ".join(f"{each.type} {each.shape}" for each in inputs)
            raise FileError(path, f"takes {got}; an upscaler takes float32 [n, 3, h, w]")
        name = inputs[0].name

        def engine(sizes: Mapping[str, int], *_: object) -> FunctionEngine:
            specs = (_SPEC.fixed(sizes),)

            def call(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
                (found,) = session.run(None, {name: arrays[_IMAGES]})
                return {_IMAGES: found}

            return FunctionEngine("upscaler", specs, (), call)

        return Upscaler(Model("upscaler", (_SPEC,), engine))

    def __call__(self, pixels: Pixels) -> Evaluation[Pixels]:
        """A picture, uint8 [h, w, 3], made larger by the network's own factor."""
        (outputs,) = yield [Row(self.model, {_IMAGES: _floats(pixels)})]
        larger = np.clip(outputs[_IMAGES], 0.0, 1.0).transpose(1, 2, 0) * np.float32(255.0)
        return np.round(larger).astype(np.uint8)

    def need(self, height: int, width: int) -> Need:
        """What it calls for a picture of that size."""
        return Need.of(Row(self.model, {_IMAGES: np.empty((_RGB, height, width), np.float32)}), 1)


_SPEC = TensorSpec(_IMAGES, ("batch", _RGB, "height", "width"))


def _floats(pixels: Pixels) -> NDArray[np.float32]:
    return pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255.0)
