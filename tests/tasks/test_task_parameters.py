"""The records of parameters, and their tables in docs/endpoints.md.

After a change of a record: print the tables with `python tests/tasks/test_task_parameters.py` and put them there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from distilrt.errors import InvalidParameter
from distilrt.tasks import TASKS, Param, Task
from distilrt.tasks.task_parameters import TOKENIZING, WINDOWED, count, one_of

PAGE = Path(__file__).parents[2] / "docs" / "endpoints.md"


def tables() -> Iterator[str]:
    """Two tables of the parameters that many tasks share, and one of the others of each task."""
    yield from _table("texts", TOKENIZING)
    windowed = {key: param for key, param in WINDOWED.items() if TOKENIZING.get(key) is not param}
    yield ""
    yield from _table(
        ", ".join(name for name, task in TASKS.items() if name == task.name and _windowed(task)), windowed
    )
    for name, task in TASKS.items():
        shared = WINDOWED if _windowed(task) else TOKENIZING
        own = {key: param for key, param in task.params.items() if shared.get(key) is not param}
        if name == task.name and own:
            yield ""
            yield from _table(name, own)


def _windowed(task: type[Task]) -> bool:
    return task.params.get("stride") is WINDOWED["stride"]


def _table(title: str, params: Mapping[str, Param]) -> Iterator[str]:
    yield f"| {title} | must be | default | what it is |"
    yield "|---|---|---|---|"
    for name, param in params.items():
        yield f"| `{name}` | {param.allowed} | {param.default!r} | {param.about} |"


def test_the_page_has_the_tables() -> None:
    assert "\n".join(tables()) in PAGE.read_text()


class _Option(Enum):
    FIRST = "first"


CASES: list[tuple[Param, Any, Any]] = [
    (count("", 5), 7, 7),
    (count("", 5), None, 5),
    (count("", None), None, None),
    (count("", "", None), None, None),
    (count("", 5, least=0), 0, 0),
    (one_of("", True, False), None, True),
    (one_of("", None, "a"), None, None),
    (one_of("", "none", "first", any_case=True), "FIRST", "first"),
    (one_of("", "none", "first"), _Option.FIRST, "first"),
    (count("", 5), 0, InvalidParameter),
    (count("", 5), True, InvalidParameter),
    (count("", 5), 5.0, InvalidParameter),
    (one_of("", 1, 2), True, InvalidParameter),
    (one_of("", "a"), "A", InvalidParameter),
]


@pytest.mark.parametrize(("param", "given", "expected"), CASES)
def test_values(param: Param, given: Any, expected: Any) -> None:
    if expected is InvalidParameter:
        with pytest.raises(InvalidParameter, match=f"^top_k must be {re.escape(param.allowed)}, found {given!r}"):
            param.value("top_k", given)
    else:
        found = param.value("top_k", given)
        assert (type(found), found) == (type(expected), expected)


if __name__ == "__main__":
    print(*tables(), sep="\n")
