"""A model and its tokenizer from whatever a caller has: a folder, a hub id, or objects that are loaded already."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from distilrt import checkpoint, models
from distilrt.config import DistilBertConfig
from distilrt.hub import resolve_file
from distilrt.tokenizer import DistilBertTokenizer
from distilrt.tokenizer_auto import load_tokenizer

Resolve = Callable[[str], Path | None]


def load(
    model: Any,
    tokenizer: DistilBertTokenizer | str | Path | None,
    architecture: str | None,
    *,
    backend: str,
    dtype: str,
    num_threads: int | None,
    **where: Any,
) -> tuple[Any, DistilBertTokenizer, Resolve | None]:
    """A model of `distilrt.models`, its tokenizer, and how to find further files of the checkpoint by name.

    Args:
        model: folder or hub id of a checkpoint, or a loaded model of `distilrt`.
        tokenizer: the same for the tokenizer; None: the model's.
        architecture: what to load a checkpoint as; None: what its config says, or else the bare encoder.
        backend, dtype, num_threads: as in the models' `from_pretrained`; not for a loaded model.
        where: revision, subfolder, token, cache_dir, local_files_only; for both.

    Returns:
        The function is None for a loaded model.

    Raises:
        OSError: a checkpoint or file of it is not there.
        TypeError: neither this nor that, or a choice that comes too late.
        CheckpointError, BackendError: see the models' `from_pretrained`.
    """
    source, resolve = model, None
    if isinstance(model, str | Path):
        resolve = partial(resolve_file, model, **where)
        if architecture is None:
            config = DistilBertConfig.from_pretrained(model, **where)
            architecture = checkpoint.architecture_of(config) or "DistilBertModel"
        model = getattr(models, architecture).from_pretrained(
            model, backend=backend, dtype=dtype, num_threads=num_threads, **where
        )
    elif not isinstance(getattr(model, "config", None), DistilBertConfig):
        raise TypeError(f"model must be a folder, a hub id or a model of distilrt, found {type(model).__name__}; for "
                        "transformers' objects there is distilrt.accelerate")  # fmt: skip
    elif (backend, dtype, num_threads) != ("auto", "auto", None):
        raise TypeError("backend, dtype and num_threads are chosen when a model is loaded, and this one is; pass "
                        "them to its from_pretrained, or give a folder or hub id here")  # fmt: skip
    if isinstance(tokenizer, str | Path) or (tokenizer is None and resolve is not None):
        tokenizer = load_tokenizer(source if tokenizer is None else tokenizer, **where)
    if not isinstance(tokenizer, DistilBertTokenizer):
        raise TypeError("tokenizer must be a folder, a hub id or a DistilBertTokenizer of distilrt (and with a loaded "
                        f"model it must be given), found {type(tokenizer).__name__}")  # fmt: skip
    return model, tokenizer, resolve
