"""A process of its own that answers method calls over a pipe, and the calling end of that pipe.

A child that dies takes only its own results with it, and its memory and start can be told from everybody else's.
"""

from __future__ import annotations

import os
import pickle
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from distilrt.bench.artefacts import last_line

PATIENCE = 900.0  # seconds for one answer; a first call may compile or convert a model


class PeerError(Exception):
    """An engine failed; the message is its reason."""


class Child:
    """A process that runs `python -m module arguments`, which calls `serve`.

    It is in a session of its own: a Ctrl-C reaches the caller alone, which can then end it in order.
    """

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )

    def ask(self, method: str, *arguments: Any) -> Any:
        """What the child's method returns.

        Raises:
            PeerError: it raised, died, or took longer than `PATIENCE`.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        if stdout.closed:
            raise PeerError("its process was ended by Ctrl-C")
        try:
            pickle.dump((method, arguments), stdin)
            stdin.flush()
            if not select.select([stdout], [], [], PATIENCE)[0]:
                self._process.kill()
                raise PeerError(f"no answer in {PATIENCE:.0f} s")
            failed, result = pickle.load(stdout)
        except KeyboardInterrupt:
            self._process.kill()
            stdout.close()  # an answer that comes yet would be taken for that to the next question
            raise
        except (EOFError, OSError):
            status = self._process.wait()
            self._log.seek(0)
            said = last_line(self._log.read().decode(errors="replace"))
            raise PeerError(f"its process ended with {status}: {said}") from None
        if failed:
            raise PeerError(result)
        return result

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(served: object) -> None:
    """In the child: answer calls of `served`'s methods until standard input ends."""
    answers: IO[bytes] = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what engines print must not get between the answers
    with suppress(EOFError, BrokenPipeError):
        while True:
            method, arguments = pickle.load(sys.stdin.buffer)
            try:
                answer = (False, getattr(served, method)(*arguments))
            except Exception as error:
                answer = (True, f"{type(error).__name__}: {last_line(str(error))}")
            pickle.dump(answer, answers)
            answers.flush()
