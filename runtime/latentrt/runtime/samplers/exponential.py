"""One step of an exponential integrator, which all of DPM-Solver's relatives share.

In x = x0 + sigma * noise and the logarithm of the level, the diffusion ODE has two parts. A step
solves the linear part exactly. The other part is an integral of the model's prediction. With a
constant prediction the step has first order (DDIM). Other solvers put a polynomial through the
predictions at several levels, and take its mean under the integral's weight. They differ in the
levels, and in how exactly they take the mean.

Sources: arXiv:2206.00927, section 3 (predicting noise); arXiv:2211.01095, section 4 (predicting
x0); arXiv:2204.13902 and arXiv:2302.04867, section 3 each (polynomials through what there is).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from latentrt.runtime.samplers.denoise import Array

__all__ = ["ExponentialStep", "Point"]

Point = tuple[float, Array]
"""A noise level and what was predicted there."""


@dataclass(frozen=True, slots=True)
class ExponentialStep:
    """A step from level `sigma` down to `sigma_next`.

    With `predict_x0` it goes by the estimate of x0 (DPM-Solver++), else by that of the noise
    (DPM-Solver, DEIS). `eta` is 0 for the ODE and 1 for its SDE. Above 0 the step goes below
    `sigma_next`, and noise of standard deviation `fresh` takes it back there.
    """

    sigma: float
    sigma_next: float
    predict_x0: bool
    eta: float = 0.0

    @property
    def length(self) -> float:
        """By how much the logarithm of the level falls: 0 to infinity."""
        return math.log(self.sigma / self.sigma_next) if self.sigma_next > 0.0 else math.inf

    @property
    def gain(self) -> float:
        """How much of the estimate of x0 is in the latent that the step ends with."""
        ratio = self.sigma_next / self.sigma
        if self.predict_x0:
            return 1.0 - ratio ** (1.0 + self.eta)
        return (1.0 - ratio) * (1.0 + self.eta)

    @property
    def fresh(self) -> float:
        """The standard deviation of the noise that a step of the SDE adds."""
        if self.predict_x0:
            ratio = self.sigma_next / self.sigma
            return self.sigma_next * math.sqrt(1.0 - ratio ** (2.0 * self.eta))
        return math.sqrt(self.eta * (self.sigma**2 - self.sigma_next**2))

    def prediction(self, latent: Array, denoised: Array) -> Array:
        """What the step goes by, from a latent of level `sigma` and its estimate of x0."""
        if self.predict_x0:
            return denoised
        noise_pred: Array = (latent - denoised) / self.sigma
        return noise_pred

    def advance(self, latent: Array, denoised: Array) -> Array:
        """The latent, float32 of any shape, taken down with an estimate of x0, without noise."""
        kept: Array = latent * (1.0 - self.gain)
        return denoised * self.gain + kept

    def usable(self, points: Sequence[Point]) -> Sequence[Point]:
        """The points that a polynomial can go through: of no or infinite length, the first."""
        return points if 0.0 < self.length < math.inf else points[:1]

    def moments(self, count: int) -> list[float]:
        """The means of 1, s, s**2, ... over the step, as the integral weighs them.

        s is the share of the step's length that has been gone. For a `count` above 1 that length
        has to be finite.
        """
        z = -(1.0 + self.eta) * self.length if self.predict_x0 else self.length
        whole = _phi(1, z) if count > 1 else 1.0
        return [1.0, *(math.factorial(i) * _phi(i + 1, z) / whole for i in range(1, count))]

    def estimate(self, denoised: Array, points: Sequence[Point], moments: Sequence[float]) -> Array:
        """The estimate of x0 that stands for the mean over the step of the prediction.

        That is the mean of the polynomial through the points. The first point is at `sigma`, where
        the estimate is `denoised`, float32 of any shape. Each other point has a level of its own.
        `moments` has one number for each point.
        """
        shares = [math.log(self.sigma / sigma) / self.length for sigma, _ in points[1:]]
        weights = _weights([0.0, *shares], moments)[1:]
        for (_, prediction), weight in zip(points[1:], weights, strict=True):
            # In differences, which single precision keeps the digits of: all weights add up to 1.
            change: Array = prediction - points[0][1]
            denoised = change * (weight if self.predict_x0 else -weight * self.sigma) + denoised
        return denoised


def _phi(k: int, z: float) -> float:
    """The integral of exp((1 - s) * z) * s**(k - 1) / (k - 1)! over s from 0 to 1."""
    if abs(z) < 1.0:
        # The recurrence below would lose a digit for each that z is short of 1.
        return sum(z**n / math.factorial(n + k) for n in range(18))
    value = math.exp(z)
    for i in range(k):
        value = (value - 1.0 / math.factorial(i)) / z
    return value


def _weights(places: Sequence[float], moments: Sequence[float]) -> list[float]:
    """How much the value at each place counts in the mean of the polynomial through all."""
    weights: list[float] = []
    for i, place in enumerate(places):
        # Lagrange's polynomial: 1 at this place and 0 at the others; its coefficients, rising.
        polynomial = [1.0]
        for other in (*places[:i], *places[i + 1 :]):
            raised = zip([0.0, *polynomial], [*polynomial, 0.0], strict=True)
            polynomial = [(higher - lower * other) / (place - other) for higher, lower in raised]
        weights.append(sum(c * m for c, m in zip(polynomial, moments, strict=True)))
    return weights
