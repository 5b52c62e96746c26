"""What the tests of schedules share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def exact_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch with a square root that is rounded once, on every machine."""

    def root(x: torch.Tensor) -> torch.Tensor:
        return x.double().pow(0.5).float()

    monkeypatch.setattr(torch.Tensor, "sqrt", root)
