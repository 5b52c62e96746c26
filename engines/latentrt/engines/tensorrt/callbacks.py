"""What TensorRT calls back while it works: a log that keeps errors, and a progress monitor."""

from __future__ import annotations

from typing import Any

from latentrt.engines.registry import Progress


def log(api: Any) -> Any:
    """A logger that keeps the messages of errors in `errors` and drops everything else."""

    class Log(api.ILogger):
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (api.ILogger.ERROR, api.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def monitor(api: Any, progress: Progress) -> Any:
    """A monitor that tells `progress`; an exception of that stops the build, and is in `error`."""

    class Monitor(api.IProgressMonitor):
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)
            self.error: BaseException | None = None
            self._totals: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del parent_phase
            self._totals[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return self.error is None

        def phase_finish(self, phase_name: str) -> None:
            # Not every phase completes its last step before it ends.
            self._tell(phase_name, self._totals[phase_name])

        def _tell(self, phase: str, done: int) -> None:
            if self.error is not None:
                return
            try:
                progress(phase, done, self._totals[phase])
            # An exception must not pass through TensorRT's own frames.
            except BaseException as error:
                self.error = error

    return Monitor()
