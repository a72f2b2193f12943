"""One target and its load generator in a process of their own: loaded, checked, then measured window by window.

A process that dies takes only its own results with it, and its memory and start can be told from everybody else's.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from distilrt.bench import answers, targets
from distilrt.bench.artefacts import last_line, memory_mb, worker_environment
from distilrt.bench.load import Load, measure, new_loop
from distilrt.bench.samples import Samples
from distilrt.bench.statistics import Window
from distilrt.bench.targets import Spec

PATIENCE = 900.0  # seconds for one answer; a first call may compile or convert a model


class PeerError(Exception):
    """An engine failed; the message is its reason."""


class Facts(NamedTuple):
    """What a loaded target says of itself."""

    dtype: str
    version: str


class Session:
    """A target in its process, in a session of its own: Ctrl-C reaches the caller alone, who ends it in order.

    Attributes:
        facts: of the target.
        start_s: seconds from starting the process to the first answer; None for a server, which runs already.

    Raises:
        PeerError: it could not be loaded or reached; of every method too, where the target fails.
    """

    def __init__(self, spec: Spec, samples: Samples) -> None:
        start = time.perf_counter()
        environment = worker_environment(spec.threads)
        if spec.form:  # compiled kernels, too, are kept with the checkpoint
            environment["TORCHINDUCTOR_CACHE_DIR"] = str(Path(spec.model) / "exports" / "inductor")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._pipe, its_end = Pipe()
        program = "import sys; from distilrt.bench import session; session.serve(int(sys.argv[1]))"
        with its_end:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program, str(its_end.fileno())], env=environment, pass_fds=[its_end.fileno()],
                stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True,
            )  # fmt: skip
        try:
            self._ask("load", spec)
            self.facts = self.prepare(samples)
            self.answers([0])
        except BaseException:
            self.close()
            raise
        self.start_s = None if spec.is_url else round(time.perf_counter() - start, 3)

    def prepare(self, samples: Samples) -> Facts:
        """Hand over other samples."""
        facts: Facts = self._ask("prepare", samples)
        return facts

    def answers(self, indices: Sequence[int], *, of_all: bool = False) -> list[answers.Answer]:
        """Answers to these samples, each asked for alone; `of_all`: among those to all samples at once."""
        found: list[answers.Answer] = self._ask("answers", indices, of_all)
        return found

    def window(self, wanted: Load) -> Window:
        """Measure."""
        window: Window = self._ask("window", wanted)
        return window

    def peak_mb(self) -> float | None:
        """The most memory that the process had, with interpreter and load generator; None where nobody tells it."""
        try:
            size: float | None = self._ask("peak_mb")
        except PeerError:  # Ctrl-C ended it
            return None
        return size

    def _ask(self, method: str, *arguments: Any) -> Any:
        """What the method of `_Served` returns."""
        if self._pipe.closed:
            raise PeerError("its process was ended by Ctrl-C")
        try:
            self._pipe.send((method, arguments))
            if not self._pipe.poll(PATIENCE):
                self._process.kill()
                raise PeerError(f"no answer in {PATIENCE:.0f} s")
            failed, result = self._pipe.recv()
        except KeyboardInterrupt:
            self._process.kill()
            self._pipe.close()  # an answer that comes yet would be taken for that to the next question
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
        self._pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Served:
    """What a session's process answers; its methods are `Session`'s."""

    def __init__(self) -> None:
        self._loop = new_loop()
        self._target: Any = None

    def load(self, spec: Spec) -> None:
        self._spec, self._target = spec, targets.create(spec)
        gc.collect()
        gc.freeze()  # so that collecting before every window takes microseconds

    def prepare(self, samples: Samples) -> Facts:
        self._samples = samples
        self._loop.run_until_complete(self._target.prepare(samples))
        return Facts(self._target.dtype, self._target.version)

    def answers(self, indices: Sequence[int], of_all: bool) -> list[answers.Answer]:
        ask = self._loop.run_until_complete
        if of_all:
            every = ask(self._target.answer_all(range(len(self._samples.inputs))))
            found = [every[index] for index in indices]
        else:
            found = [raw for index in indices for raw in ask(self._target.answer([index]))]
        return [answers.parse(self._target.decode(raw)) for raw in found]

    def window(self, wanted: Load) -> Window:
        gc.collect()
        gc.disable()  # a collection takes milliseconds, in which nothing is sent
        try:
            return self._loop.run_until_complete(measure(self._target, self._samples.lengths, wanted))
        finally:
            gc.enable()

    def peak_mb(self) -> float | None:
        return None if self._spec.is_url else memory_mb()

    def close(self) -> None:
        if self._target is not None:
            self._loop.run_until_complete(self._target.close())


def serve(descriptor: int) -> None:
    """The process of a session: answer calls of `_Served`'s methods until the other end of the pipe is closed."""
    sys.setswitchinterval(5e-4)  # a computing thread must not keep the generator from its schedule for 5 ms
    pipe, served = Connection(descriptor), _Served()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            method, arguments = pipe.recv()
            try:
                answer = (False, getattr(served, method)(*arguments))
            except Exception as error:
                answer = (True, f"{type(error).__name__}: {last_line(str(error))}")
            pipe.send(answer)
    served.close()
