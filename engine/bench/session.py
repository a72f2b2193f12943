"""One target and its load generator in a process of their own: loaded, checked, then measured window by window."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilrt.bench import answers, targets
from distilrt.bench.artefacts import worker_environment
from distilrt.bench.child import Child, serve
from distilrt.bench.load import Load, measure, new_loop
from distilrt.bench.samples import Samples
from distilrt.bench.statistics import Window
from distilrt.bench.targets import Spec


@dataclass(frozen=True, slots=True)
class Facts:
    """What a loaded target says of itself."""

    dtype: str
    version: str
    threads: int | None


class Session(Child):
    """A target in its process.

    Attributes:
        module: what the process runs.
        facts: of the target.
        start_s: seconds from starting the process to the first answer; None for a server, which runs already.

    Raises:
        PeerError: it could not be loaded or reached.
    """

    module = "distilrt.bench.session"

    def __init__(self, spec: Spec, samples: Samples) -> None:
        start = time.perf_counter()
        environment = worker_environment(spec.threads)
        if spec.form:  # compiled kernels, too, are kept with the checkpoint
            environment["TORCHINDUCTOR_CACHE_DIR"] = str(Path(spec.model) / "exports" / "inductor")
        super().__init__(self.module, environment=environment)
        try:
            self.ask("load", spec)
            self.facts = Facts(*self.ask("prepare", samples))
            self.ask("answers", [0])
        except BaseException:
            self.close()
            raise
        self.start_s = None if spec.is_url else time.perf_counter() - start

    def prepare(self, samples: Samples) -> None:
        """Hand over other samples.

        Raises:
            PeerError: the target cannot serve them.
        """
        self.ask("prepare", samples)

    def answers(self, indices: Sequence[int]) -> list[answers.Answer]:
        """Answers to these samples, each asked for alone.

        Raises:
            PeerError: there are none.
        """
        found: list[answers.Answer] = self.ask("answers", list(indices))
        return found

    def window(self, wanted: Load) -> Window:
        """Measure.

        Raises:
            PeerError: the target failed altogether.
        """
        window: Window = self.ask("window", wanted)
        return window

    def peak_mb(self) -> float | None:
        """The most memory that the process had, with interpreter and load generator; None where it is not told."""
        size: float | None = self.ask("peak_mb")
        return size


class _Served:
    """What a session's process answers; its methods are `Session`'s."""

    def __init__(self) -> None:
        self._loop = new_loop()

    def load(self, spec: Spec) -> None:
        self._spec, self._target = spec, targets.create(spec)
        gc.collect()
        gc.freeze()  # so that collecting before every window takes microseconds

    def prepare(self, samples: Samples) -> tuple[str, str, int | None]:
        self._samples = samples
        self._loop.run_until_complete(self._target.prepare(samples))
        return self._target.dtype, self._target.version, self._target.threads

    def answers(self, indices: list[int]) -> list[answers.Answer]:
        found: list[Any] = []
        for index in indices:
            found += self._loop.run_until_complete(self._target.answer([index]))
        decode = getattr(self._target, "decode", None)
        return [answers.parse(decode(raw) if decode else raw) for raw in found]

    def window(self, wanted: Load) -> Window:
        gc.collect()
        gc.disable()  # a collection takes milliseconds, in which nothing is sent
        try:
            return self._loop.run_until_complete(measure(self._target, self._samples.lengths, wanted))
        finally:
            gc.enable()

    def peak_mb(self) -> float | None:
        status = Path("/proc/self/status")
        if not status.exists() or self._spec.is_url:
            return None
        # Not getrusage, whose peak a process inherits from the one that started it.
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024


def main() -> None:
    """The process of a session."""
    sys.setswitchinterval(5e-4)  # a computing thread must not keep the generator from its schedule for 5 ms
    serve(_Served())


if __name__ == "__main__":
    main()
