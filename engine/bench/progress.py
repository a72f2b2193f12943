"""Progress of work whose length is roughly known, while the work is somewhere else: a bar with the time left on a
terminal, lines of a log elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

QUIET = 2.0  # seconds; less work shows no bar
Say = Callable[[str, float], None]  # see Bar.step


class Bar:
    """A bar over a block of work, which Ctrl-C ends: what was done by then is left as it is, and `stopped` is True.

    Args:
        seconds: of the whole, roughly.
        console: where to draw; nothing is drawn where that is no terminal.
        log: write a line for each step where nothing is drawn.
    """

    def __init__(self, seconds: float, console: Console, *, log: bool = False) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), TextColumn("left"),
                   TimeRemainingColumn(elapsed_when_finished=True))  # fmt: skip
        shown = console.is_terminal and seconds > QUIET
        self.stopped = False
        self._progress = Progress(*columns, console=console, transient=True, refresh_per_second=4, disable=not shown)
        self._log = log and not shown
        self._task = self._progress.add_task("starting", total=seconds)
        self._done = 0.0
        self._step = 0.0
        self._since = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def step(self, words: str, seconds: float) -> None:
        """The last step is over, the next begins and should take so long; of no seconds: a remark, which stays."""
        if self._log or not (seconds or self._progress.disable):
            line = f"{time.strftime('%H:%M:%S')} {words}"
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        if seconds:
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        self._end.set()
        self._thread.join()
        self._progress.stop()
        self.stopped = isinstance(error, KeyboardInterrupt)
        return self.stopped
