"""Every environment variable that distilrt reads, parsed in one place. docs/environment.md lists them for users."""

from __future__ import annotations

import os


def force_isa() -> str | None:
    """`DISTILRT_FORCE_ISA`: run this instruction set and no other, or fail."""
    return os.environ.get("DISTILRT_FORCE_ISA") or None


def num_threads() -> int | None:
    """`DISTILRT_NUM_THREADS`: threads of a CPU model that was not given `num_threads`.

    Raises:
        ValueError: not an integer of at least 1.
    """
    text = os.environ.get("DISTILRT_NUM_THREADS")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"DISTILRT_NUM_THREADS must be an integer of at least 1, found {text!r}")
    return int(text)


def backend() -> str | None:
    """`DISTILRT_BACKEND`: what `backend="auto"` means."""
    return os.environ.get("DISTILRT_BACKEND") or None
