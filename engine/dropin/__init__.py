"""Other libraries' own objects and entry points over this engine: one module for each library.

Each takes what its library's users have, gives back what they expect, and imports that library only when asked.
"""

from __future__ import annotations

import sys
from typing import Any

from distilrt.dropin.copies import Accelerated

# Of sentence-transformers 6; 5 has no MultiVectorEncoder.
_ENCODERS = ("SentenceTransformer", "CrossEncoder", "SparseEncoder", "MultiVectorEncoder")


def accelerate(obj: Any, backend: str = "auto", dtype: str = "auto") -> Any:
    """The same kind of object with the same answers, computed by distilrt.

    Args:
        obj: a transformers DistilBERT of any head, or a BERT of the same heads; a transformers pipeline, or a
            sentence-transformers `SentenceTransformer`, `CrossEncoder`, `SparseEncoder` or `MultiVectorEncoder` around
            one of these.
        backend: "auto", which is "cuda" for a model on such a device and "cpu" else; "cpu", "cuda" or "reference".
        dtype: what to compute in: "auto", the backend's default for the model, or one that the backend has. Outputs
            keep the model's own dtype.

    Returns:
        An accelerated copy. It shares the parameters with `obj`, which stays as it was and which its
        `to_transformers()` returns. When those change, by training say, the copy packs them anew at its next call.

    Raises:
        TypeError: `obj` is no such object, or computes in another way than its class.
        CheckpointError, ValueError: a model that distilrt cannot compute exactly; the message says why.
        BackendError: the backend or dtype is not available here.
    """
    if isinstance(obj, Accelerated):
        obj = obj.to_transformers()
    # Whoever has such an object has loaded its library.
    if library := sys.modules.get("transformers"):
        if isinstance(obj, library.PreTrainedModel):
            from distilrt.dropin.transformers import accelerate_model

            return accelerate_model(obj, backend, dtype)
        if isinstance(obj, library.Pipeline):
            from distilrt.dropin.transformers import accelerate_pipeline

            return accelerate_pipeline(obj, backend, dtype)
    library = sys.modules.get("sentence_transformers")
    if library and isinstance(obj, tuple(getattr(library, name) for name in _ENCODERS if hasattr(library, name))):
        from distilrt.dropin.sentence_transformers import accelerate_sentence_transformer

        return accelerate_sentence_transformer(obj, backend, dtype)
    raise TypeError(
        f"accelerate takes a transformers model or pipeline, or a {', '.join(_ENCODERS)}, found "
        f"{type(obj).__name__}; a model wrapped by torch.compile, PEFT or another library must be unwrapped first"
    )
