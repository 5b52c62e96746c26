"""The kernels that TensorRT for RTX compiles for the GPU at hand, kept beside a plan.

A plan of that library is finished where it is run, in every process anew. What the first run
compiles is stored with a plan that is built on the GPU that it is for, and is hashed and verified
with it. It is a hint: TensorRT looks whether it fits library, GPU and driver, and compiles where it
does not. Unverified: nobody has run it on a GPU; the tests hold it over a plan that is made up.
"""

from __future__ import annotations

from typing import Any


class Kernels:
    """What the contexts of one plan compile, beginning with what is `stored` if that fits."""

    def __init__(self, config: Any, stored: bytes) -> None:
        self._config: Any = config
        self._cache: Any = config.create_runtime_cache()
        if stored:
            # False for what is of another library, GPU or driver, or damaged: then it stays empty.
            self._cache.deserialize(stored)
        config.set_runtime_cache(self._cache)

    @staticmethod
    def of(plan: Any, stored: bytes) -> Kernels | None:
        """None for a plan of the data-centre library, which has nothing left to compile."""
        configure = getattr(plan, "create_runtime_config", None)
        config = None if configure is None else configure()
        return Kernels(config, stored) if hasattr(config, "create_runtime_cache") else None

    def context(self, plan: Any) -> Any:
        """A context of the plan; None when the GPU has no room."""
        return plan.create_execution_context(self._config)

    def stored(self) -> bytes:
        """All that was compiled so far."""
        return bytes(memoryview(self._cache.serialize()))
