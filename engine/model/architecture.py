"""The architecture: its parameters and their shapes, and the linear layers that are computed as one product.

Names are canonical: those of the reference without the `distilbert.` in front. A BERT has them too, whose token types
have an embedding and whose pooler is the head's first layer.
"""

from __future__ import annotations

from collections.abc import Container

from distilrt.errors import CheckpointError
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import ENCODER, HEADS, POOLER, Dimensions, Head, Norm, Projection

Shape = tuple[int, ...]

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"  # only a BERT has it
PROJECTOR = "vocab_projector.weight"
CLASSIFIER = "DistilBertForSequenceClassification"

_EMBEDDINGS: dict[str, Dimensions] = {
    WORDS: ("vocab_size", "hidden_size"),
    POSITIONS: ("max_position_embeddings", "hidden_size"),
    **Norm("embeddings.LayerNorm").tensors,
}
_LAYER: dict[str, Dimensions] = {
    **Projection("attention.q_lin", "hidden_size").tensors,
    **Projection("attention.k_lin", "hidden_size").tensors,
    **Projection("attention.v_lin", "hidden_size").tensors,
    **Projection("attention.out_lin", "hidden_size").tensors,
    **Norm("sa_layer_norm").tensors,
    **Projection("ffn.lin1", "intermediate_size").tensors,
    "ffn.lin2.weight": ("hidden_size", "intermediate_size"),
    "ffn.lin2.bias": ("hidden_size",),
    **Norm("output_layer_norm").tensors,
}
# The linear layers of an encoder layer by the native encoder's names. Q, K and V are computed as one product.
_FUSED = {
    "qkv": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "out_proj": ("attention.out_lin",),
    "ffn_in": ("ffn.lin1",),
    "ffn_out": ("ffn.lin2",),
}
_HEAD_LINEARS = {layer.name: None for head in HEADS.values() for layer in head.layers if isinstance(layer, Projection)}


def head_of(architecture: str) -> Head:
    """The head of an architecture; a ValueError for one that is unknown."""
    if architecture not in HEADS:
        raise ValueError(f"architecture must be one of {', '.join(HEADS)}, found {architecture!r}")
    return HEADS[architecture]


def architecture_of(config: DistilBertConfig) -> str | None:
    """The architecture that a checkpoint was saved as, a key of HEADS; None where its config names none.

    Raises:
        CheckpointError: the config names only architectures that are unknown here.
    """
    if not config.architectures:
        return None
    if config.predicts_next_sentence:
        return CLASSIFIER
    known = next((name for name in config.architectures if name in HEADS), None)
    if known is None:
        raise CheckpointError(
            f"config.architectures is {', '.join(config.architectures)}; known are {', '.join(HEADS)}. Load the "
            "checkpoint with one of these classes by name"
        )
    return known


def expected_shapes(config: DistilBertConfig, architecture: str) -> dict[str, Shape]:
    """The canonical name and shape of every parameter of a model.

    Raises:
        ValueError: an unknown architecture.
    """
    dimensions = dict(_EMBEDDINGS)
    if config.is_bert:
        dimensions[TOKEN_TYPES] = ("type_vocab_size", "hidden_size")
    for i in range(config.num_layers):
        dimensions |= {f"transformer.layer.{i}.{name}": dims for name, dims in _LAYER.items()}
    dimensions |= head_of(architecture).tensors
    if config.add_pooling_layer and architecture == ENCODER.architecture:
        dimensions |= POOLER.tensors
    return {
        name: tuple(dim if isinstance(dim, int) else int(getattr(config, dim)) for dim in dims)
        for name, dims in dimensions.items()
    }


def with_pooler(config: DistilBertConfig, architecture: str, names: Container[str]) -> DistilBertConfig:
    """The config of a model with tensors of these names, which of a bare BERT tell whether there is a pooler."""
    if not config.is_bert or architecture != ENCODER.architecture:
        return config
    found = f"{POOLER.name}.weight" in names
    return config if config.add_pooling_layer == found else config.replace(add_pooling_layer=found)


def linears(num_layers: int, names: Container[str], dtype: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The linear layers as backends compute them: by the native encoder's name, the dtype and the canonical layers.

    The canonical names of the model's parameters tell its head, which is float32 in any dtype.
    """
    found = {
        f"layer.{i}.{name}": (dtype, tuple(f"transformer.layer.{i}.{part}" for part in parts))
        for i in range(num_layers)
        for name, parts in _FUSED.items()
    }
    return found | {name: ("float32", (name,)) for name in _HEAD_LINEARS if f"{name}.weight" in names}
