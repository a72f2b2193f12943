"""engine/bench/progress.py: a bar on terminals, a log elsewhere."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from distilrt.bench.progress import QUIET, bar


def written(terminal: bool, seconds: float, log: bool) -> str:
    """What two steps leave, the first a tenth of the whole."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    with bar(seconds, console, log=log) as say:
        say("loading [x]", seconds / 10)
        say("measuring", 1.0)
        time.sleep(0.4)
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[\d;?]*\w", "", console.file.getvalue())


def test_a_bar_with_the_time_left() -> None:
    lines = written(terminal=True, seconds=QUIET + 1, log=True)
    assert re.search(r"measuring ━+.*left +(\d:\d\d:\d\d|-)", lines)


@pytest.mark.parametrize(("terminal", "seconds"), [(True, QUIET / 2), (False, QUIET + 1)])
def test_short_work_and_files_get_none(terminal: bool, seconds: float) -> None:
    assert written(terminal, seconds, log=False) == ""
    lines = written(terminal, seconds, log=True).splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["loading [x]", "measuring"]
