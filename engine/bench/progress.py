"""Progress of work whose length is roughly known: a bar with the time left on a terminal, lines of a log elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

QUIET = 2.0  # seconds; less work shows no bar
Say = Callable[[str, float], None]  # The last step is over, this one begins and should take so many seconds.


@contextmanager
def bar(seconds: float, console: Console, *, log: bool = False) -> Iterator[Say]:
    """A bar over a block of work, which tells its steps.

    Args:
        seconds: of the whole, roughly.
        console: where to draw; nothing is drawn where that is no terminal.
        log: write a line for each step where nothing is drawn.
    """
    shown, step = console.is_terminal and seconds > QUIET, 0.0
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn(elapsed_when_finished=True))  # fmt: skip
    with Progress(*columns, console=console, transient=True, refresh_per_second=4, disable=not shown) as progress:
        task = progress.add_task("starting", total=seconds)

        def say(words: str, seconds: float) -> None:
            nonlocal step
            if log and not shown:
                console.print(f"{time.strftime('%H:%M:%S')} {words}", markup=False, highlight=False, soft_wrap=True)
            progress.update(task, description=words, advance=step)
            step = seconds

        yield say
