"""The quantile function of the beta distribution, without SciPy."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["beta_quantile"]

_TINY: Final = 1e-300
_HALVINGS: Final = 200


def beta_quantile(p: float, a: float, b: float) -> float:
    """The x in [0, 1] below which a beta-distributed number lies with probability `p`.

    `p` lies in [0, 1]; `a` and `b`, above 0, are the distribution's parameters. Accurate to a few
    roundings of double precision: bisection, then Newton's method on the distribution function.
    """
    if p <= 0.0:
        return 0.0
    if p >= 1.0:
        return 1.0
    if p > _distribution(0.5, a, b):
        # Near 1 the distance from 1 has more digits than the number itself.
        return 1.0 - _lower_quantile(1.0 - p, b, a)
    return _lower_quantile(p, a, b)


def _lower_quantile(p: float, a: float, b: float) -> float:
    """The quantile, known to be at most one half: bisection of its logarithm, polished."""
    low, high = math.log(_TINY), math.log(0.5)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (middle, high) if _distribution(math.exp(middle), a, b) < p else (low, middle)
    x = math.exp(0.5 * (low + high))
    density = math.exp((a - 1.0) * math.log(x) + (b - 1.0) * math.log1p(-x) - _log_beta(a, b))
    return min(max(x - (_distribution(x, a, b) - p) / density, 0.0), 1.0)


def _distribution(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), DLMF 8.17.8 and 8.17.22."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _distribution(1.0 - x, b, a)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b)) / a
    return front / _continued_fraction(x, a, b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 + d1/(1 + d2/(1 + ...)) of DLMF 8.17.22, forwards by the modified Lentz method."""
    value, c, d = 1.0, 1.0, 0.0
    for n in range(1, 1000):
        m = n // 2
        if n % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        d = 1.0 / ((1.0 + term * d) or _TINY)
        c = (1.0 + term / c) or _TINY
        value *= c * d
        if abs(c * d - 1.0) < 1e-16:
            break
    return value


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
