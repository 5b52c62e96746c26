"""The process that something was opened in, which alone may use it.

A fork copies memory, but no threads. What waits for a thread of the parent would wait for ever, and
so would the end of a native session, which joins its threads.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final, NoReturn
from weakref import WeakSet

from latentrt.bundle.errors import Closed

_NATIVE: Final[WeakSet[object]] = WeakSet()
"""What a native library has threads for; a forked process never frees these."""


class Home:
    """The process that a pipeline, a batcher, a run or an engine was opened in.

    `what` names it in messages. An object with one as its first attribute cannot be pickled:
    that raises `Closed`, which says what to do.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._process = os.getpid()

    @property
    def here(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Raise `Closed` in any other process."""
        if not self.here:
            raise Closed(
                f"this {self._what} was opened by process {self._process} and cannot be used after "
                f"a fork: open it in the process that uses it (this is process {os.getpid()})"
            )

    def __reduce__(self) -> NoReturn:
        raise Closed(
            f"a {self._what} cannot be pickled or copied: open it in the process that uses it"
        )


def keep_in_children(native: object) -> None:
    """Have a forked process never free an object whose end would wait for its threads."""
    _NATIVE.add(native)


def _keep() -> None:
    """In a process that was just forked: leave what belongs to the parent's threads alone."""
    if not _NATIVE:
        return
    # One reference more than anybody gives back, so that not even the end of the process frees it.
    for native in _NATIVE:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))
    # ONNX Runtime's library waits for a thread of its own when a process ends. So that its turn
    # does not come, the C library ends the process first, when Python has finished its own work.
    on_exit = getattr(ctypes.pythonapi, "on_exit", None)  # glibc's
    if on_exit is not None:
        on_exit(ctypes.pythonapi._exit, None)


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_keep)
