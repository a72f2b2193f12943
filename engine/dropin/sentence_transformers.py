"""`accelerate` for sentence-transformers: its own `encode` and `predict` around an accelerated transformer.

sentence-transformers goes on tokenizing, sorting by length and pooling, with all its options; the engine gets its
padded batches and computes none of their padding. sentence-transformers 5 and 6.
"""

from __future__ import annotations

from typing import Any

import sentence_transformers
import torch
import transformers

from distilrt.dropin.copies import accelerated_copy, shallow_copy
from distilrt.dropin.transformers import accelerate_model


def accelerate_sentence_transformer(model: Any, backend: str, dtype: str) -> Any:
    """`accelerate` of an encoder of sentence-transformers: a copy around its accelerated transformers model.

    Raises:
        TypeError: there is no transformers model inside, for example because it is one for ONNX or OpenVINO.
    """
    made = accelerated_copy(model)
    # The queries of a late-interaction encoder are scored by the vectors of masked positions too.
    late = isinstance(model, getattr(sentence_transformers, "MultiVectorEncoder", ()))
    if not _replace(made, backend, dtype, masked_outputs=late):
        raise TypeError(f"this {type(model).__name__} has no transformers model inside to accelerate; load it with "
                        "backend='torch'")  # fmt: skip
    return made


def _replace(module: torch.nn.Module, backend: str, dtype: str, masked_outputs: bool) -> bool:
    """Put accelerated models in the place of those inside a copy, and copies in the place of all other modules."""
    found = False
    module.training = False
    for name, child in module._modules.items():
        if isinstance(child, transformers.PreTrainedModel):
            module._modules[name] = accelerate_model(child, backend, dtype, masked_outputs)
            found = True
        elif child is not None:
            module._modules[name] = copied = shallow_copy(child, type(child))
            found |= _replace(copied, backend, dtype, masked_outputs)
    return found
