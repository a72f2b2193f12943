"""Keeps torch.compile away from code that computes with NumPy, which it would otherwise rewrite for torch."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])
_REASON = "a model of distilrt can't be captured in one graph; accelerate a transformers model, which can"


def eager(function: _Function) -> _Function:
    """The same function; a program that torch compiles calls it eagerly, between two compiled parts."""
    disabled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if "torch._dynamo" not in sys.modules:  # a program that compiles has loaded it; loading it takes a second
            return function(*args, **kwargs)
        if disabled is None:
            disabled = sys.modules["torch"].compiler.disable(function, reason=_REASON)
        return disabled(*args, **kwargs)

    return call  # type: ignore[return-value]  # it has the signature of `function`
