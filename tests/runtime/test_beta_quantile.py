"""The beta distribution's quantiles, held against SciPy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from latentrt.runtime.schedules.beta_quantile import beta_quantile

PARAMETERS = [(0.6, 0.6), (0.5, 2.0), (2.0, 0.5), (3.0, 1.5), (1.0, 1.0), (5.0, 7.0)]

TOLERANCE = 1e-14
"""Relative: some fifty roundings of double precision. The worst found is 4e-15."""


@pytest.mark.parametrize(("a", "b"), PARAMETERS)
def test_quantiles_are_those_of_scipy(a: float, b: float) -> None:
    shares = [*np.linspace(0.0, 1.0, 201), 1e-6, 1e-3, 1.0 - 1e-3, 1.0 - 1e-6]
    mine = np.array([beta_quantile(float(p), a, b) for p in shares])
    exact = scipy.stats.beta.ppf(shares, a, b)
    np.testing.assert_allclose(mine, exact, rtol=TOLERANCE)


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_quantiles_known_in_closed_form(p: float) -> None:
    # The uniform distribution; the arcsine distribution; powers.
    assert beta_quantile(p, 1.0, 1.0) == pytest.approx(p, rel=TOLERANCE)
    arcsine = math.sin(p * math.pi / 2.0) ** 2
    assert beta_quantile(p, 0.5, 0.5) == pytest.approx(arcsine, rel=TOLERANCE)
    assert beta_quantile(p, 4.0, 1.0) == pytest.approx(p**0.25, rel=TOLERANCE)


@pytest.mark.parametrize(("a", "b"), PARAMETERS)
def test_quantiles_rise(a: float, b: float) -> None:
    found = [beta_quantile(p / 1000.0, a, b) for p in range(1001)]
    assert found[0] == 0.0
    assert found[-1] == 1.0
    assert (np.diff(found) > 0.0).all()
