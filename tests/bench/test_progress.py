"""engine/bench/progress.py: a bar on terminals, a log elsewhere, and what Ctrl-C does to the block under it."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from distilrt.bench.progress import QUIET, Bar


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80)


def written(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return re.sub(r"\x1b\[[\d;?]*\w", "", of.file.getvalue())


def test_a_bar_with_the_time_left() -> None:
    shown = console(terminal=True)
    with Bar(QUIET + 1, shown, log=True) as bar:
        bar.step("loading [x]", 1.5)
        bar.step("left out: [y]", 0)
        time.sleep(0.7)
    lines = written(shown)
    assert "loading [x]" in lines
    assert "━" in lines
    assert re.search(r"left +(\d:\d\d:\d\d|-)", lines)
    assert re.search(r"\d\d:\d\d:\d\d left out: \[y\]\n", lines)
    assert not bar.stopped


@pytest.mark.parametrize(("terminal", "seconds"), [(True, QUIET / 2), (False, QUIET + 1)])
def test_short_work_and_files_get_none(terminal: bool, seconds: float) -> None:
    quiet, logged = console(terminal), console(terminal)
    for shown, log in ((quiet, False), (logged, True)):
        with Bar(seconds, shown, log=log) as bar:
            bar.step("one", 1.0)
            bar.step("two [z]", 0)
    assert written(quiet) == ""
    assert [line.split(" ", 1)[1] for line in written(logged).splitlines()] == ["one", "two [z]"]


def test_ctrl_c_ends_the_block_and_nothing_more() -> None:
    with Bar(1, console(terminal=False)) as bar:
        raise KeyboardInterrupt
    assert bar.stopped
    with pytest.raises(ValueError, match="other"), Bar(1, console(terminal=False)) as bar:
        raise ValueError("other")
    assert not bar.stopped
