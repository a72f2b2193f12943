"""A progress bar with the time left, on a terminal only; it moves while the work is somewhere else."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

QUIET = 2.0  # seconds; less work shows no bar


class Bar:
    """A bar over work of known length; `step` says what comes next and the seconds that it should take.

    Args:
        seconds: of the whole, roughly.
        console: where to draw; nothing is drawn where that is no terminal.
    """

    def __init__(self, seconds: float, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"),
                   TimeRemainingColumn(elapsed_when_finished=True))  # fmt: skip
        shown = console.is_terminal and seconds > QUIET
        self._progress = Progress(*columns, console=console, transient=True, disable=not shown)
        self._task = self._progress.add_task("starting", total=seconds)
        self._done = 0.0
        self._step = 0.0
        self._since = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def step(self, words: str, seconds: float) -> None:
        """The last step is over, the next begins."""
        self._done += self._step
        self._step, self._since = seconds, time.monotonic()
        self._progress.update(self._task, description=words)

    def _tick(self) -> None:
        while not self._end.wait(0.2):
            part = min(time.monotonic() - self._since, self._step)
            total = max(self._progress.tasks[0].total or 0.0, self._done + self._step)
            self._progress.update(self._task, completed=self._done + part, total=total)

    def __enter__(self) -> Bar:
        self._progress.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()
        self._progress.stop()
