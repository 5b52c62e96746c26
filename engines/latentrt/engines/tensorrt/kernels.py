"""The kernels that TensorRT for RTX compiles for the GPU at hand, kept beside a plan.

A plan of that library is finished where it runs, again in every process. A plan that is built on
its own GPU is run once, and the kernels compiled then are stored, hashed and verified with it. They
are a hint: where they do not fit library, GPU and driver, TensorRT compiles others. Unverified:
never run on a GPU. The tests use a fake plan.
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
