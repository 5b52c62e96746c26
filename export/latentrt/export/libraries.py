"""Silence for the libraries that a checkpoint is read with."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Generator
from typing import Final

_LIBRARIES: Final = ("diffusers", "transformers", "torch", "onnxscript", "onnx_ir")
_VERBOSITY: Final = ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY")
"""Read when a library is imported, which logs by then."""


@contextlib.contextmanager
def quiet_libraries() -> Generator[None]:
    """Keep the libraries' warnings from the terminal, those of their imports too.

    What matters of them, such as config fields that are ignored, is in the notes of an export.
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
            # Those of this project's own lines stay.
            warnings.filterwarnings("ignore", module=rf"({'|'.join(_LIBRARIES)})(\.|$)")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name in unset:
            os.environ.pop(name, None)
