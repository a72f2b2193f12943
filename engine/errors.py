"""The engine's own errors. Each message says what was wrong, what is allowed and what to do.

Plain mistakes in the arguments of a Python call raise `ValueError` or `TypeError`, missing files `OSError`; the classes
here are for what only the engine can know. `InvalidInput` and its subclasses are the fault of a request or a command,
and `ValueError`s too, so generic callers catch them as such. A `ValueError` of no such class that a server or a command
meets is a fault of the engine's own code.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce


class DistilrtError(Exception):
    """Base of every error that the engine defines."""


class InvalidInput(DistilrtError, ValueError):
    """The inputs of one call cannot be computed: wrong ids, shape, mask or dtype.

    Attributes:
        index: of the input in a list of them, which the message then starts with; None: there is no list.
    """

    index: int | None = None

    def __str__(self) -> str:
        return super().__str__() if self.index is None else f"input {self.index}: {super().__str__()}"

    def at(self, index: int | None) -> InvalidInput:
        """The same error of the input with that index, without the traceback of this one."""
        error = type(self)(*self.args)
        error.index = index
        return error

    def naming(self, names: Mapping[str, str]) -> InvalidInput:
        """The same error in a caller's words: `names` has those for the message's own, and is followed in order."""
        return type(self)(reduce(lambda text, name: text.replace(*name), names.items(), str(self.args[0])))


class TooLong(InvalidInput):
    """A sequence has more positions than the model was trained for."""


class TooLarge(InvalidInput):
    """A request asks for more texts, characters, tokens or numbers than one request may have."""


class InvalidParameter(InvalidInput):
    """There is no task, parameter or option of that name, its value is not allowed, or the model cannot serve it."""


class Overloaded(DistilrtError):
    """The queue is full; try again after `retry_after` seconds, when what waits now should be done."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(DistilrtError, TimeoutError):
    """A request's deadline passed while it waited; it was not computed."""


class NotReady(DistilrtError):
    """The engine is still loading, already draining, or closed."""


class BackendError(DistilrtError, RuntimeError):
    """A backend, dtype or instruction set was asked for that this machine or build does not have; or a batch failed."""


class CheckpointError(DistilrtError, ValueError):
    """A checkpoint's files do not hold the tensors that its config describes."""


def detached(error: Exception) -> Exception:
    """The error without its traceback, whose frames have the variables of all functions that were running.

    A request holds its error: if a variable there held the request in turn, both and all texts would stay until the
    garbage collector comes by.
    """
    found: BaseException | None = error
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__
    return error
