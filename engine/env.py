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


def _positive(name: str) -> int | None:
    text = os.environ.get(name)
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"{name} must be an integer of at least 1, found {text!r}")
    return int(text)
