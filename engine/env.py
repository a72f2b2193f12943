"""Every environment variable that distilrt reads, parsed in one place. docs/environment.md lists them for users."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def force_isa() -> str | None:
    """`DISTILRT_FORCE_ISA`: run this instruction set and no other, or fail."""
    return os.environ.get("DISTILRT_FORCE_ISA") or None


def num_threads() -> int | None:
    """`DISTILRT_NUM_THREADS`: threads of a CPU model that was not given `num_threads`.

    Raises:
        ValueError: not an integer of at least 1.
    """
    return _positive("DISTILRT_NUM_THREADS")


def backend() -> str | None:
    """`DISTILRT_BACKEND`: what `backend="auto"` means."""
    return os.environ.get("DISTILRT_BACKEND") or None


def gpu_memory() -> int | None:
    """`DISTILRT_GPU_MEMORY`: MiB of workspace that a model on a GPU may take beside its weights.

    Raises:
        ValueError: not an integer of at least 1.
    """
    return _positive("DISTILRT_GPU_MEMORY")


def server() -> dict[str, Any]:
    """`DISTILRT_…` for each option of the server that is set, by the names of `distilrt.server.settings.Settings`.

    Raises:
        ValueError: not of the option's type; which values are allowed, the settings say.
    """
    options: dict[str, tuple[str, Callable[[str, str], Any]]] = {
        "host": ("DISTILRT_HOST", _text),
        "port": ("DISTILRT_PORT", _integer),
        "api_key": ("DISTILRT_API_KEY", _text),
        "max_body_bytes": ("DISTILRT_MAX_BODY_BYTES", _integer),
        "max_inputs": ("DISTILRT_MAX_INPUTS", _integer),
        "max_tokens": ("DISTILRT_MAX_TOKENS", _integer),
        "truncate": ("DISTILRT_TRUNCATE", _switch),
        "deadline": ("DISTILRT_DEADLINE", _number),
        "body_timeout": ("DISTILRT_BODY_TIMEOUT", _number),
        "keep_alive": ("DISTILRT_KEEP_ALIVE", _number),
        "max_connections": ("DISTILRT_MAX_CONNECTIONS", _integer),
        "drain_delay": ("DISTILRT_DRAIN_DELAY", _number),
        "drain_timeout": ("DISTILRT_DRAIN_TIMEOUT", _number),
        "log_format": ("DISTILRT_LOG_FORMAT", _text),
    }
    found = _set(options)
    if os.environ.get("DISTILRT_API_KEY") == "":  # no other empty variable would let everybody in
        found["api_key"] = ""
    return found


def served() -> dict[str, Any]:
    """`DISTILRT_…` for each option of `distilrt serve` about its models that is set; `models` is a list.

    Raises:
        ValueError: not of the option's type.
    """
    options: dict[str, tuple[str, Callable[[str, str], Any]]] = {
        "models": ("DISTILRT_MODELS", lambda name, text: text.split()),
        "dtype": ("DISTILRT_DTYPE", _text),
        "max_batch_tokens": ("DISTILRT_MAX_BATCH_TOKENS", _integer),
        "max_queue_tokens": ("DISTILRT_MAX_QUEUE_TOKENS", _integer),
        "max_delay": ("DISTILRT_MAX_DELAY", _number),
    }
    return _set(options)


def _set(options: dict[str, tuple[str, Callable[[str, str], Any]]]) -> dict[str, Any]:
    found = {option: (name, parse, os.environ.get(name)) for option, (name, parse) in options.items()}
    return {option: parse(name, text) for option, (name, parse, text) in found.items() if text}


def _text(name: str, text: str) -> str:
    return text


def _integer(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{name} must be an integer, found {text!r}")
    return int(text)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, found {text!r}") from None


def _switch(name: str, text: str) -> bool:
    if text.lower() not in ("0", "1", "false", "true"):
        raise ValueError(f"{name} must be 0, 1, false or true, found {text!r}")
    return text.lower() in ("1", "true")


def _positive(name: str) -> int | None:
    text = os.environ.get(name)
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"{name} must be an integer of at least 1, found {text!r}")
    return int(text)
