"""`accelerate` for sentence-transformers: its own `encode` and `predict` around an accelerated transformer.

sentence-transformers goes on tokenizing, sorting by length and pooling, with all its options; the engine gets its
padded batches and computes none of their padding. sentence-transformers 5 and 6.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

from distilrt.dropin.copies import Accelerated, accelerated_copy, shallow_copy
from distilrt.dropin.transformers import accelerate_model


class AcceleratedSentenceTransformer(Accelerated):
    """What an accelerated object has beyond its own class: only the way back."""


def accelerate_sentence_transformer(model: Any, backend: str, dtype: str) -> Any:
    """`accelerate` of a `SentenceTransformer` or `CrossEncoder`: a copy around its accelerated transformers model.

    Raises:
        TypeError: there is no transformers model inside, for example because it is one for ONNX or OpenVINO.
    """
    made = accelerated_copy(model, AcceleratedSentenceTransformer, accelerate_sentence_transformer, backend, dtype)
    if not _replace(made, backend, dtype):
        raise TypeError(f"this {type(model).__name__} has no transformers model inside to accelerate; load it with "
                        "backend='torch'")  # fmt: skip
    return made


def _replace(module: torch.nn.Module, backend: str, dtype: str) -> bool:
    """Put accelerated models in the place of those inside, and copies of all modules on the way there."""
    found = False
    for name, child in module._modules.items():
        if isinstance(child, transformers.PreTrainedModel):
            module._modules[name] = accelerate_model(child, backend, dtype)
            found = True
        elif child is not None:
            copied = shallow_copy(child, type(child))
            if _replace(copied, backend, dtype):
                module._modules[name] = copied
                found = True
    return found
