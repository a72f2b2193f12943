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
        if not _compiling():
            return function(*args, **kwargs)
        if disabled is None:
            disabled = sys.modules["torch"].compiler.disable(function, reason=_REASON)
        return disabled(*args, **kwargs)

    return call  # type: ignore[return-value]  # it has the signature of `function`


def _compiling() -> bool:
    """Whether torch compiles the caller, or would compile what the caller calls."""
    if "torch._dynamo" not in sys.modules:  # a program that compiles has loaded it; loading it takes a second
        return False
    torch = sys.modules["torch"]
    return torch.compiler.is_dynamo_compiling() or bool(torch._C._dynamo.eval_frame.get_eval_frame_callback())
