"""An accelerated copy of another library's object: a subclass instance that shares everything it can with the original.

The copy passes `isinstance`, and checks of the class name, as the original does; the original stays as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any


class Accelerated:
    """What all accelerated copies have: the way back, and a way through pickle."""

    _original: Any
    _rebuild: tuple[Any, tuple[Any, ...]]  # a picklable function and its arguments

    def to_transformers(self) -> Any:
        """The unaccelerated original, which can be trained, exported and changed."""
        return self._original

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._rebuild


def accelerated_copy(original: Any, mixin: type[Accelerated], function: Callable[..., Any], *arguments: Any) -> Any:
    """A shallow copy of `original` whose class is a subclass of its own with the methods of `mixin`.

    Args:
        function, arguments: `function(original, *arguments)` makes the copy anew, e.g. in another process.
    """
    kinds: Any = (type(original), mixin)
    made = shallow_copy(original, _class(*kinds))
    vars(made).update(_original=original, _rebuild=(function, (original, *arguments)))
    return made


def shallow_copy(original: Any, cls: type) -> Any:
    """An instance of `cls` with the attributes of `original`.

    Private dicts among them, in which torch modules keep parts and hooks, are copied, so that changing those of the
    copy leaves the original alone.
    """
    made: Any = object.__new__(cls)
    for name, value in vars(original).items():
        vars(made)[name] = copy.copy(value) if name.startswith("_") and isinstance(value, dict) else value
    return made


@cache
def _class(cls: Any, mixin: Any) -> type:
    return type(cls.__name__, (mixin, cls), {"__module__": mixin.__module__, "__doc__": cls.__doc__})
