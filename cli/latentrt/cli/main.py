"""`latentrt`: every command, and what an error becomes."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from types import FrameType
from typing import Any, Final, NoReturn

import typer

from latentrt.bundle.errors import FileError, InputError, LatentrtError, VerificationFailed
from latentrt.cli.drawing import generate, samplers
from latentrt.cli.making import build, cache, export
from latentrt.cli.measuring import bench, compare
from latentrt.cli.options import BAD_INPUT, FAILURE, INTERRUPTED, OUT_OF_TOLERANCE
from latentrt.cli.telling import doctor, inspect

app = typer.Typer(
    name="latentrt",
    help="Stable Diffusion in production without PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (export, generate, samplers, inspect, build, cache, compare, bench, doctor):
    app.command()(_command)


class _Warnings(logging.Handler):
    """What the library warns of, as a line on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"latentrt: {record.getMessage()}", file=sys.stderr)


_WARNINGS: Final = _Warnings(logging.WARNING)


def main() -> None:
    """Run the command line; errors become one line and an exit status."""
    logging.getLogger("latentrt").addHandler(_WARNINGS)
    _stop_in_order()
    try:
        status: Any = app(standalone_mode=False)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except (InputError, FileError) as error:
        _fail(str(error), BAD_INPUT)
    except VerificationFailed as error:
        _fail(str(error), OUT_OF_TOLERANCE)
    except LatentrtError as error:
        _fail(str(error), FAILURE)
    except typer.Abort:
        _fail("interrupted", INTERRUPTED)
    except OSError as error:
        _fail(f"{error.filename or 'system'}: {error.strerror or error}", FAILURE)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own usage errors
            _fail(str(error.format_message()), BAD_INPUT)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
        raise
    # An exit that a command asked for, or an interrupt, comes back as its status.
    if status == INTERRUPTED:
        _fail("interrupted", INTERRUPTED)
    if status:
        sys.exit(status)


def _stop_in_order() -> None:
    # As an exception on SIGTERM and SIGHUP, so that what is half made is removed on the way out.
    def leave(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        return  # which no signal reaches
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Whoever ignores a signal, as nohup does, has it ignored.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, leave)


def _fail(message: str, status: int) -> NoReturn:
    print(f"latentrt: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
