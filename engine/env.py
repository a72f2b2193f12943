"""Every environment variable that distilrt reads. A variable is one record, or belongs to an option of the server."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, get_args

from distilrt.errors import InvalidParameter

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Variable(Generic[_Value]):
    """An environment variable."""

    name: str
    parse: Callable[[str, str], _Value]  # from name and text; raises an InvalidParameter for a text of another kind
    about: str  # what it sets, as docs/environment.md says it

    def __call__(self) -> _Value | None:
        """The value; None where the variable is not set, or empty.

        Raises:
            InvalidParameter: its text is of another kind.
        """
        text = os.environ.get(self.name)
        return self.parse(self.name, text) if text else None


def options(types: Mapping[str, Any], may_be_empty: Collection[str] = ()) -> dict[str, Any]:
    """The values of those options that a variable sets. Its name is `DISTILRT_` and the option's in capitals.

    A type is str, int, float or bool, perhaps None too; or list, of words. An empty variable counts as not set, unless
    the option may be empty.

    Raises:
        InvalidParameter: a variable's text is not of the option's type. The option itself says which are allowed.
    """
    found = {}
    for option, annotation in types.items():
        kind = next((kind for kind in get_args(annotation) if kind is not type(None)), annotation)
        name = f"DISTILRT_{option.upper()}"
        text = os.environ.get(name)
        if text or (text == "" and option in may_be_empty):
            found[option] = _PARSERS[kind](name, text)
    return found


def _text(name: str, text: str) -> str:
    return text


def _words(name: str, text: str) -> list[str]:
    return text.split()


def _integer(name: str, text: str, least: int = 0) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise InvalidParameter(f"{name} must be an integer of at least {least}, found {text!r}")
    return int(text)


_positive = partial(_integer, least=1)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidParameter(f"{name} must be a number, found {text!r}") from None


def _switch(name: str, text: str) -> bool:
    if text.lower() not in ("0", "1", "false", "true"):
        raise InvalidParameter(f"{name} must be 0, 1, false or true, found {text!r}")
    return text.lower() in ("1", "true")


_PARSERS: dict[type, Callable[[str, str], Any]] = {
    str: _text,
    int: _integer,
    float: _number,
    bool: _switch,
    list: _words,
}

backend = Variable(
    "DISTILRT_BACKEND",
    _text,
    'what `backend="auto"` means: `reference`, `cpu` or `cuda`; default: `cuda` where torch and triton are installed '
    "and see a device that the kernels run on, else `cpu`",
)
num_threads = Variable(
    "DISTILRT_NUM_THREADS",
    _positive,
    "threads of a CPU model that was not given `num_threads`; default: the physical cores of one memory node in the "
    "process's affinity mask, within its cgroups' CPU quota, looked up again while it runs",
)
gpu_memory = Variable(
    "DISTILRT_GPU_MEMORY",
    _positive,
    "MiB of workspace that a model on a GPU may take beside its weights; default: what batches of one full wave of "
    "tiles need (59 for DistilBERT-base in bfloat16 on 132 multiprocessors; `distilrt info --model` prints it). Less "
    "makes larger batches run in smaller parts",
)
force_isa = Variable(
    "DISTILRT_FORCE_ISA",
    _text,
    "run this instruction set (`avx512`, `avx2`, `generic`) or fail; default: the best that the CPU has",
)
