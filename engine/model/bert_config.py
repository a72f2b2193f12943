"""A BERT's `config.json`, read into DistilBERT's names and written back; what is not computed is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from distilrt.errors import CheckpointError

# transformers' names for the same things, which a DistilBERT's config file may have too.
ALIASES = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
_NAMES = ALIASES | {
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}
_OURS = {ours: name for name, ours in _NAMES.items()}
# Fields of a BERT config that say nothing about a model that is loaded.
_UNREAD = (
    *("layer_norm_eps", "position_embedding_type", "use_cache", "is_decoder"),
    *("add_cross_attention", "gradient_checkpointing", "classifier_dropout", "_name_or_path"),
)
_DISTILBERT_ONLY = ("sinusoidal_pos_embds", "qa_dropout", "seq_classif_dropout")
OWN_FIELDS = ("type_vocab_size", "add_pooling_layer")  # fields that a DistilBERT's config can't set
# A BERT's classifier of two labels by other names in files, hence one of our architectures by another name.
NEXT_SENTENCE = "BertForNextSentencePrediction"
_SUPPORTED = (
    "distilrt runs 'distilbert' and 'bert': learned absolute positions from 0, and norms behind sums (post-norm)"
)
_OFFSET, _RELATIVE = "its positions start behind the padding token's id", "its attention has relative positions"
_ROTARY, _PRE_NORM = "its positions rotate queries and keys (RoPE)", "its layer norms come first (pre-norm)"
# Why a model that is much like a BERT is none.
_OTHERS = {
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "data2vec-text", "longformer", "xmod"), _OFFSET),
    **dict.fromkeys(("deberta", "deberta-v2", "mpnet", "xlnet", "t5"), _RELATIVE),
    **dict.fromkeys(("modernbert", "nomic_bert", "new", "roformer", "eurobert", "neobert"), _ROTARY),
    **dict.fromkeys(("megatron-bert", "roberta-prelayernorm", "xlm-roberta-xl"), _PRE_NORM),
    "albert": "its layers share one set of weights",
    "electra": "its embeddings are projected, and its heads are others",
    "mobilebert": "its layers have bottlenecks",
}


def unsupported(model_type: Any) -> CheckpointError:
    """The error for a model that is neither, which says what differs where that is known."""
    why = f" ({_OTHERS[model_type]})" if isinstance(model_type, str) and model_type in _OTHERS else ""
    return CheckpointError(f"config.json says model_type {model_type!r}{why}; {_SUPPORTED}")


def read(values: Mapping[str, Any], layer_norm_eps: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """A BERT's config in DistilBERT's names, and the fields of its own; a CheckpointError for what is refused."""
    if (eps := values.get("layer_norm_eps", layer_norm_eps)) != layer_norm_eps:
        raise CheckpointError(
            f"this BERT has layer_norm_eps {eps}; a DistilBERT's is always {layer_norm_eps}, so it can't be run exactly"
        )
    if (kind := values.get("position_embedding_type", "absolute")) != "absolute":
        raise CheckpointError(f"this BERT has position_embedding_type {kind!r}; {_SUPPORTED}")
    if values.get("is_decoder") or values.get("add_cross_attention"):
        raise CheckpointError("this BERT is a decoder; only encoders can be run")
    of_bert = {"type_vocab_size": 2, "add_pooling_layer": False}
    of_bert |= {key: value for key, value in values.items() if key in OWN_FIELDS}
    if type(types := of_bert["type_vocab_size"]) is not int or types < 1:
        raise CheckpointError(f"this BERT has type_vocab_size {types!r}; it must be an integer of at least 1")
    ours = {_NAMES.get(key, key): value for key, value in values.items() if key not in (*_UNREAD, *OWN_FIELDS)}
    ours.setdefault("n_layers", 12)  # the one default in which the two differ
    if isinstance(names := ours.get("architectures"), list | tuple):
        labels = ours.get("id2label")
        if NEXT_SENTENCE in names and not (isinstance(labels, dict) and len(labels) == 2):  # transformers reads none
            ours = {key: value for key, value in ours.items() if key not in ("num_labels", "id2label", "label2id")}
        ours["architectures"] = [n if n == NEXT_SENTENCE else str(n).replace("Bert", "DistilBert", 1) for n in names]
    return ours, of_bert


def in_its_names(message: str) -> str:
    """An error of a config with the names of fields that the BERT's file has."""
    return re.sub(r"(?<=config\.)\w+", lambda found: _OURS.get(found[0], found[0]), message)


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config of DistilBERT's field names in a BERT's, without the fields that a BERT does not have."""
    out = {_OURS.get(name, name): value for name, value in values.items() if name not in _DISTILBERT_ONLY}
    if out.get("architectures") is not None:
        out["architectures"] = [name.replace("DistilBert", "Bert", 1) for name in out["architectures"]]
    return out | {"position_embedding_type": "absolute"}
