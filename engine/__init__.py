"""distilrt: the DistilBERT runtime.

The public names load on first use, so that `import distilrt` stays quick and imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distilrt.dropin import accelerate
    from distilrt.dropin import tensorflow as _tensorflow
    from distilrt.model.config import AutoConfig, DistilBertConfig
    from distilrt.model.models import (
        AutoModel,
        AutoModelForMaskedLM,
        AutoModelForMultipleChoice,
        AutoModelForNextSentencePrediction,
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        BertForNextSentencePrediction,
        DistilBertForMaskedLM,
        DistilBertForMultipleChoice,
        DistilBertForQuestionAnswering,
        DistilBertForSequenceClassification,
        DistilBertForTokenClassification,
        DistilBertModel,
    )
    from distilrt.pipelines import pipeline
    from distilrt.runtime.engine import Engine
    from distilrt.sentence_encoder import SentenceEncoder
    from distilrt.text.auto_tokenizer import AutoTokenizer
    from distilrt.text.tokenizer import DistilBertTokenizer
    from distilrt.verification import verify

    TFDistilBertModel = _tensorflow.TFDistilBertModel
    TFDistilBertForMaskedLM = _tensorflow.TFDistilBertForMaskedLM
    TFDistilBertForSequenceClassification = _tensorflow.TFDistilBertForSequenceClassification
    TFDistilBertForQuestionAnswering = _tensorflow.TFDistilBertForQuestionAnswering

__version__ = "0.2.0"

_HOMES = {
    "AutoConfig": "model.config",
    "AutoModel": "model.models",
    "AutoModelForMaskedLM": "model.models",
    "AutoModelForMultipleChoice": "model.models",
    "AutoModelForNextSentencePrediction": "model.models",
    "AutoModelForQuestionAnswering": "model.models",
    "AutoModelForSequenceClassification": "model.models",
    "AutoModelForTokenClassification": "model.models",
    "AutoTokenizer": "text.auto_tokenizer",
    "BertForNextSentencePrediction": "model.models",
    "DistilBertConfig": "model.config",
    "DistilBertTokenizer": "text.tokenizer",
    "DistilBertModel": "model.models",
    "DistilBertForMaskedLM": "model.models",
    "DistilBertForSequenceClassification": "model.models",
    "DistilBertForQuestionAnswering": "model.models",
    "DistilBertForTokenClassification": "model.models",
    "DistilBertForMultipleChoice": "model.models",
    "Engine": "runtime.engine",
    "SentenceEncoder": "sentence_encoder",
    "verify": "verification",
    "pipeline": "pipelines",
    "accelerate": "dropin",
    # Not in __all__: a star import must not need TensorFlow.
    "TFDistilBertModel": "dropin.tensorflow",
    "TFDistilBertForMaskedLM": "dropin.tensorflow",
    "TFDistilBertForSequenceClassification": "dropin.tensorflow",
    "TFDistilBertForQuestionAnswering": "dropin.tensorflow",
}

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForNextSentencePrediction",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoTokenizer",
    "BertForNextSentencePrediction",
    "DistilBertConfig",
    "DistilBertForMaskedLM",
    "DistilBertForMultipleChoice",
    "DistilBertForQuestionAnswering",
    "DistilBertForSequenceClassification",
    "DistilBertForTokenClassification",
    "DistilBertModel",
    "DistilBertTokenizer",
    "Engine",
    "SentenceEncoder",
    "__version__",
    "accelerate",
    "pipeline",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'distilrt' has no attribute {name!r}; it has {', '.join(_HOMES)}")
    return getattr(import_module(f"distilrt.{home}"), name)


def __dir__() -> list[str]:
    return list(__all__)
