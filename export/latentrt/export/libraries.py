"""Silence the libraries that read a checkpoint."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Generator
from typing import Final

_LIBRARIES: Final = ("diffusers", "transformers", "torch", "onnxscript", "onnx_ir")
_VERBOSITY: Final = ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY")
"""Variables that a library reads when it is imported."""


@contextlib.contextmanager
def quiet_libraries() -> Generator[None]:
    """Hide the libraries' warnings, also those of their imports.

    What matters in them, such as ignored config fields, is in the notes of an export.
    """
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    levels = [logger.level for logger in loggers]
    unset = [name for name in _VERBOSITY if name not in os.environ]
    for name in unset:
        os.environ[name] = "critical"
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # Warnings that this project's own lines cause stay visible.
            warnings.filterwarnings("ignore", module=rf"({'|'.join(_LIBRARIES)})(\.|$)")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name in unset:
            os.environ.pop(name, None)
