"""What tests of the runtime share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from latentrt.runtime import Pipeline


@pytest.fixture(scope="module")
def pipelines(bundle: Callable[[str], Path]) -> Iterator[Callable[[str], Pipeline]]:
    """The pipeline of a configuration on ONNX Runtime, opened once."""
    opened: dict[str, Pipeline] = {}

    def get(configuration: str) -> Pipeline:
        if configuration not in opened:
            opened[configuration] = Pipeline.open(bundle(configuration), engine="onnxruntime")
        return opened[configuration]

    yield get
    for pipeline in opened.values():
        pipeline.close()


@pytest.fixture
def exact_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch with a square root that is rounded once, on every machine."""

    def root(x: torch.Tensor) -> torch.Tensor:
        return x.double().pow(0.5).float()

    monkeypatch.setattr(torch.Tensor, "sqrt", root)
