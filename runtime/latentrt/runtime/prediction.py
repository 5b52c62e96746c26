"""What the model is shown, and what its output says about the picture."""

from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError

__all__ = ["PREDICTION_TYPES", "PredictionType", "denoised", "model_input", "model_output"]

PredictionType = Literal["edm", "epsilon", "sample", "v_prediction"]
PREDICTION_TYPES: Final[tuple[PredictionType, ...]] = ("epsilon", "sample", "v_prediction")
"""The types that a config may name; "edm" is what an EDM config means by epsilon."""


def model_input(latent: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """A latent x0 + sigma * noise, scaled to the unit variance that the model was trained on.

    `latent` is float32 of any shape, and so is the result. `sigma` is a Python float: it would not
    stay float32 with a NumPy double.

    Source: arXiv:2206.00364, Table 1 (c_in, variance preserving).
    """
    return latent / math.sqrt(sigma * sigma + 1.0)


def denoised(
    latent: NDArray[np.float32],
    model_output: NDArray[np.float32],
    sigma: float,
    prediction_type: PredictionType,
) -> NDArray[np.float32]:
    """The estimate of x0 that a model output stands for.

    `latent` is x0 + sigma * noise before `model_input` scaled it. `model_output` is what the model
    returned, or guidance from several outputs. Both and the result are float32 of one shape.
    Raises InputError for a prediction type that does not exist.

    Source: arXiv:2206.00364, Table 1 (epsilon, edm); arXiv:2202.00512, section 4, appendix D (v).
    """
    if prediction_type == "epsilon":
        noise: NDArray[np.float32] = model_output * sigma
        return latent - noise
    if prediction_type in ("edm", "v_prediction"):
        variance = sigma * sigma + 1.0
        kept: NDArray[np.float32] = latent / variance
        change: NDArray[np.float32] = model_output * (sigma / math.sqrt(variance))
        # EDM's output is the velocity with the other sign.
        return kept + change if prediction_type == "edm" else kept - change
    if prediction_type == "sample":
        return model_output
    raise InputError("prediction_type", f"one of {', '.join(PREDICTION_TYPES)}", prediction_type)


def model_output(
    latent: NDArray[np.float32],
    denoised: NDArray[np.float32],
    sigma: float,
    prediction_type: PredictionType,
) -> NDArray[np.float32]:
    """The model output that an estimate of x0 stands for: the inverse of `denoised`.

    Arguments and result are as there.
    """
    if prediction_type == "epsilon":
        noise: NDArray[np.float32] = latent - denoised
        return noise / sigma
    if prediction_type in ("edm", "v_prediction"):
        variance = sigma * sigma + 1.0
        change: NDArray[np.float32] = latent / variance - denoised
        change /= sigma / math.sqrt(variance)
        return -change if prediction_type == "edm" else change
    if prediction_type == "sample":
        return denoised
    raise InputError("prediction_type", f"one of {', '.join(PREDICTION_TYPES)}", prediction_type)
