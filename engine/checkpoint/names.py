"""Every spelling of a checkpoint's tensors to one set of names: that of `distilrt.model.architecture`.

There are DistilBERT's names with and without prefix, old names of layer norms, and the names of a BERT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distilrt.checkpoint.tensor_files import Stored
from distilrt.errors import CheckpointError
from distilrt.model.architecture import CLASSIFIER, PROJECTOR
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import POOLER, Head

_IGNORED = re.compile(r"pooler\.|cls\.seq_relationship\.|(.*\.)?position_ids$")
_OLD_NORM = re.compile(r"(LayerNorm|layer_norm)\.(gamma|beta)$")
_NORM_PART = {"gamma": "weight", "beta": "bias"}
_BERT_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)$")
_BERT_PARTS = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
_BERT_HEAD = {
    "pooler.dense.weight": f"{POOLER.name}.weight",
    "pooler.dense.bias": f"{POOLER.name}.bias",
    "cls.predictions.transform.dense.weight": "vocab_transform.weight",
    "cls.predictions.transform.dense.bias": "vocab_transform.bias",
    "cls.predictions.transform.LayerNorm.weight": "vocab_layer_norm.weight",
    "cls.predictions.transform.LayerNorm.bias": "vocab_layer_norm.bias",
    "cls.predictions.decoder.weight": PROJECTOR,
    "cls.predictions.decoder.bias": "vocab_projector.bias",
    "cls.predictions.bias": "vocab_projector.bias",
}
_LAYER = re.compile(r"transformer\.layer\.(\d+)\.(.+)\.(weight|bias)$")
_PARTS = {ours: name for name, ours in _BERT_PARTS.items()}
# One bias has two names; the last one, which transformers saves, is kept here.
_HEAD = {ours: name for name, ours in _BERT_HEAD.items()}
# What scores the next sentence, apart from the classifier of the same place: files of other heads may have it too.
_NEXT_SENTENCE = {f"cls.seq_relationship.{part}": f"classifier.{part}" for part in ("weight", "bias")}
_NEXT_SENTENCE_HEAD = _HEAD | {ours: name for name, ours in _NEXT_SENTENCE.items()}
# Two names of one bias. Where a file has both, a BERT adds the second.
_SHADOWED = {"cls.predictions.bias": "cls.predictions.decoder.bias"}


def is_next_sentence(config: DistilBertConfig, architecture: str) -> bool:
    """Whether the classifier of this model has the names of a BERT's scores of the next sentence in files."""
    return config.predicts_next_sentence and architecture == CLASSIFIER


def canonical_tensors(
    stored: Mapping[str, Stored], architecture: str, config: DistilBertConfig, path: str | Path
) -> dict[str, Stored]:
    """The tensors by canonical name, without those that no architecture reads.

    Raises:
        CheckpointError: two of them are the same tensor of the model.
    """
    found: dict[str, Stored] = {}
    bert = config.is_bert
    for name, tensor in stored.items():
        canonical = canonical_name(name, bert)
        if is_next_sentence(config, architecture):
            canonical = _NEXT_SENTENCE.get(canonical, canonical)
        if _IGNORED.match(canonical) or (bert and _SHADOWED.get(name) in stored):
            continue
        if canonical in found:
            raise CheckpointError(
                f"{path} holds both {found[canonical].name} and {name}, which are the same tensor of the model; remove "
                "one"
            )
        found[canonical] = tensor
    return found


def canonical_name(name: str, bert: bool) -> str:
    """The canonical name of a DistilBERT's or a BERT's tensor; a name that is unknown stays."""
    name = _OLD_NORM.sub(lambda match: f"{match[1]}.{_NORM_PART[match[2]]}", name)
    if not bert:
        return name.removeprefix("distilbert.")
    name = name.removeprefix("bert.")
    layer = _BERT_LAYER.match(name)
    if layer and layer[2] in _BERT_PARTS:
        return f"transformer.layer.{layer[1]}.{_BERT_PARTS[layer[2]]}.{layer[3]}"
    return _BERT_HEAD.get(name, name)


def named_in_files(tensors: Mapping[str, Any], head: Head, config: DistilBertConfig) -> dict[str, Any]:
    """What files of this architecture hold, by their names, of tensors with canonical names."""
    named = {name_in_files(name, head, config): tensor for name, tensor in tensors.items()}
    if config.is_bert and PROJECTOR in tensors:  # then transformers does not tie the two names of its bias either
        named["cls.predictions.decoder.bias"] = named["cls.predictions.bias"]
    return named


def name_in_files(name: str, head: Head, config: DistilBertConfig) -> str:
    """What files of this architecture call a tensor: the encoder's have a prefix where it has a head."""
    bert = config.is_bert
    prefix = f"{'bert' if bert else 'distilbert'}." if head.layers else ""
    if not bert:
        return name if name in head.tensors else prefix + name
    layer = _LAYER.match(name)
    if layer:
        return f"{prefix}encoder.layer.{layer[1]}.{_PARTS[layer[2]]}.{layer[3]}"
    called = (_NEXT_SENTENCE_HEAD if is_next_sentence(config, head.architecture) else _HEAD).get(name, name)
    return called if name in head.tensors and not called.startswith("pooler.") else prefix + called
