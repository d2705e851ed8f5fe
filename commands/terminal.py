"""What commands write to the terminal, and how they end.

Text from data files is text here (`printable`): an escape sequence in the name of a joint or of a
file does not command the terminal that shows it, and a line feed in it does not begin a line.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from ..pipeline.runtime.interrupt import REQUEUE_EXIT, Interrupted, exit_status, raise_on_sigterm
from ..pipeline.runtime.launch import launched_rank
from ..pipeline.runtime.text import last_message, printable

STOPPED = "stopped; finished work is kept, run the same command again"


def echo(text: str, *, err: bool = False) -> None:
    """Print lines of text. What they quote from files has been made printable, or is here."""
    click.echo(printable(text, lines=True), err=err)


class PrintableFormatter(logging.Formatter):
    """Formats a record as one line; the lines of a traceback stay lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return printable(super().formatException(ei), lines=True)


def set_up_logging() -> None:
    """Log messages of this package, and warnings of others, to the standard error."""
    # A plot shows a box for a letter that matplotlib's font lacks, such as a Chinese one.
    warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("fpd").setLevel(logging.INFO)


@contextmanager
def errors_as_messages(work: Path) -> Iterator[None]:
    """End a stage with one message, without traceback, for an error that its user can solve.

    Of the processes that torchrun started together, the first one reports an interrupt for all; the
    message of another's error has its rank.

    Args:
        work: the work directory, which is named if an error of the system names no file.
    """
    rank = launched_rank()
    try:
        yield
    except ValueError as error:
        process = f"process {rank}: " if rank else ""
        raise click.ClickException(process + printable(last_message(error))) from None
    except OSError as error:
        path = printable(str(error.filename or work))
        raise click.ClickException(
            _explain(error)
            or f"{path}: {printable(error.strerror or str(error))}; finished work is kept: solve "
            "this and run the same command again"
        ) from None
    except (KeyboardInterrupt, Interrupted) as error:
        if rank == 0:
            echo(str(error) or STOPPED, err=True)
        raise SystemExit(exit_status(error)) from None


class Commands(click.Group):
    """A group whose commands end with one message, whatever ends them.

    SIGTERM ends them with `REQUEUE_EXIT`, Ctrl-C with `INTERRUPTED_EXIT`, also where no loop looks
    for them: during imports, while data is loaded, in an evaluation.
    """

    def invoke(self, ctx: click.Context) -> Any:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # as the standard error is
        with raise_on_sigterm() as received:
            try:
                return super().invoke(ctx)
            except click.UsageError:
                raise  # quotes the command line, not files
            except click.ClickException as error:
                shown = click.ClickException(printable(error.message, lines=True))
                if not received.is_set():
                    raise shown from None
                shown.show()
            except KeyboardInterrupt as error:
                _echo_stopped()
                raise SystemExit(exit_status(error)) from None
            except (MemoryError, RuntimeError, OSError) as error:
                message = _explain(error)
                if message is not None:
                    raise click.ClickException(message) from None
                if not received.is_set():
                    raise
            except Exception:
                if not received.is_set():
                    raise
            finally:
                # The work is done or given up: a signal while Python shuts down changes nothing.
                atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
            raise SystemExit(REQUEUE_EXIT)


def _echo_stopped() -> None:
    if os.environ.get("RANK", "0") == "0":  # the first of the processes that torchrun started
        echo(STOPPED, err=True)


def _explain(error: Exception) -> str | None:
    """A sentence about memory or another resource that ran out; None: the error is another one."""
    from ..pipeline.runtime.memory import explain_exhausted

    return explain_exhausted(error)
