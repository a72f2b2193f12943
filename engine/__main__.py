"""The command line's process: `distilrt` and `python -m distilrt`. What a command does lies in `distilrt.cli`."""

from __future__ import annotations

import io
import os
import sys

from distilrt.errors import DistilrtError


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit.

    The exit code is 0, or 1 where inputs or comparisons failed, 2 where the command could not be carried out, and 130
    after Ctrl-C, during imports too. An error of another kind is a fault of this package, and keeps its traceback.

    Args:
        arguments: None: the process's own.
    """
    _fill_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale that lacks a character is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        from distilrt import cli

        cli.app()(args=arguments, prog_name="distilrt")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (DistilrtError, OSError, ImportError) as error:
        message = str(error)
        if isinstance(error, ModuleNotFoundError) and error.name == "typer":
            message = "the command line needs more packages: pip install 'distilrt[cli]'"
        print("distilrt:", *message.split(), file=sys.stderr)
        raise SystemExit(2) from None


def _fill_closed_streams() -> None:
    """Open the null device where a standard stream is closed. Else a socket or file would get its number, messages
    could go there, and libuv ends a process that closes one of these numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # it stays open until the process ends


if __name__ == "__main__":
    main()
