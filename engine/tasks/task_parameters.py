"""What a parameter of a task is: one record that says what it means, what it may be and what it is by default.

Tasks check callers' values by these records, the server reads them, and docs/endpoints.md lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from reprlib import repr as shortened
from typing import Any

from distilrt.errors import InvalidParameter

MOST_ENTRIES = 2**15  # of a parameter that is a list of labels or tokens


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a task."""

    about: str  # what it does
    default: Any  # its value where a caller gives none
    allowed: str  # the values that it may have, in words that complete "… must be"
    accepts: Callable[[Any], bool]  # whether a value is one of them
    read: Callable[[Any], Any] = lambda value: value  # from an accepted value to the one that the task reads

    def value(self, name: str, given: Any) -> Any:
        """What the task reads where a caller gives this. None is the default, unless it is a value of its own.

        Raises:
            InvalidParameter: the value of the parameter `name` is not allowed.
        """
        if isinstance(given, Enum):  # transformers' options
            given = given.value
        if given is None and not self.accepts(None):
            given = self.default
        if not self.accepts(given):
            raise InvalidParameter(f"{name} must be {self.allowed}, found {shortened(given)}")
        return self.read(given)


def one_of(about: str, *values: Any, any_case: bool = False) -> Param:
    """A parameter with these values, the first of which is the default; `any_case` allows names in upper case too."""

    def read(value: Any) -> Any:
        return value.lower() if any_case and isinstance(value, str) else value

    return Param(about, values[0], " or ".join(map(repr, values)), lambda value: _among(read(value), values), read)


def count(about: str, default: Any, *also: Any, least: int = 1) -> Param:
    """A parameter with integers of at least `least`, its default, and `also` these values."""
    others = [value for value in (default, *also) if type(value) is not int]
    allowed = " or ".join([f"an integer of at least {least}", *map(repr, others)])
    return Param(about, default, allowed, lambda value: is_count(value, least) or _among(value, others))


def is_count(value: Any, least: int = 1) -> bool:
    """Whether a value is an integer, and no bool, of at least `least`."""
    return type(value) is int and value >= least


def strings(value: Any) -> list[str]:
    """The strings of a list or tuple that holds nothing else; an empty list for any other value."""
    return list(value) if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value) else []


def _among(value: Any, values: Iterable[Any]) -> bool:
    return any(type(value) is type(known) and value == known for known in values)  # 1 is no True


_CUT = "whether to cut a text that is too long, and which one of a pair; None: cut it if `max_length` is given"
_CUTS = (None, False, True, "longest_first", "only_first", "only_second", "do_not_truncate")
WINDOWS = "windows"

# How a tokenizer reads a text, for tasks that truncate it only when asked.
TOKENIZING: Mapping[str, Param] = {
    "truncation": one_of(_CUT, *_CUTS),
    "max_length": count("how many tokens are kept; None: as many as the model reads", None, least=2),
    "truncation_side": one_of("the end that is cut off, if any; None: as the tokenizer is set", None, "right", "left"),
    "add_special_tokens": one_of("whether to put the tokenizer's special tokens around a text", True, False),
}
# The same, for tasks that can make one answer of a text's windows.
WINDOWED = {
    **TOKENIZING,
    "truncation": one_of(f"{_CUT}; {WINDOWS!r}: read it in windows, of a pair the second text", *_CUTS, WINDOWS),
    "stride": count(f"how many tokens of text a window shares with the next, with truncation {WINDOWS!r}", 0, least=0),
}
PROMPT = Param(
    "what to put before each text; None: the checkpoint's default prompt, where its own vectors are asked for",
    None,
    "a string",
    lambda value: value is None or isinstance(value, str),
)
PADDING = one_of("without effect, as nothing is padded", False, True, "longest", "max_length", "do_not_pad")
