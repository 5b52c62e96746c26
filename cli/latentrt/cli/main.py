"""`latentrt`: runs a command; an error becomes one line and an exit status.

This module imports little. Importing the commands takes half a second, and `main` catches an
interrupt in that time too.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from latentrt.cli.signals import Signals

TRACEBACK = "LATENTRT_TRACEBACK"
"""Environment variable: if set, an unexpected error shows its traceback."""


def main() -> None:
    """Run the command line; errors become one line and an exit status."""
    try:
        from latentrt.cli.signals import Signals

        with Signals() as signals:
            from latentrt.cli.streams import standard_streams

            with standard_streams():
                status = _run(signals)
    except KeyboardInterrupt:  # before the handler, so before any work
        os.write(2, b"latentrt: interrupted\n")
        os._exit(130)
    if status:
        sys.exit(status)


def _run(signals: "Signals") -> int:
    try:
        from latentrt.cli.app import run

        status = run(sys.argv[1:])
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(*signals.outcome())
    except Exception as error:
        return _fail(*_outcome(error))
    return status


def _outcome(error: Exception) -> tuple[str, int]:
    """The message of an error, and the exit status."""
    from latentrt.bundle.errors import FileError, InputError, LatentrtError, VerificationFailed
    from latentrt.cli.options import BAD_INPUT, FAILURE, OUT_OF_TOLERANCE

    match error:
        case InputError() | FileError():
            return str(error), BAD_INPUT
        case VerificationFailed():
            return str(error), OUT_OF_TOLERANCE
        case LatentrtError():
            return str(error), FAILURE
        case OSError():
            return f"{error.filename or 'system'}: {error.strerror or error}", FAILURE
        case MemoryError():
            return f"memory: {str(error) or 'there is not enough'}", FAILURE
        case _:
            pass
    if hasattr(error, "format_message"):  # typer's own usage errors
        return str(error.format_message()), BAD_INPUT  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
    if os.environ.get(TRACEBACK):
        raise error
    told = f"unexpected {type(error).__name__}: {error}"
    return f"{told}; {TRACEBACK}=1 shows where it was raised", FAILURE


def _fail(message: str, status: int) -> int:
    print(f"latentrt: {' '.join(message.split())}", file=sys.stderr)
    return status
