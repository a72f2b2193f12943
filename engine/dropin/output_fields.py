"""The fields of a model's output as a flat list of arrays, which is all that an operator of a graph can return."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import ENCODER, HEADS

Shapes = dict[str, tuple[Any, ...]]


def output_shapes(
    architecture: str, config: DistilBertConfig, given: Collection[str], hidden_states: bool, attentions: bool
) -> Shapes:
    """Name and dimensions of every output, in order.

    Args:
        architecture: a key of `HEADS`.
        config: of the model.
        given: names of the arguments of the call.
        hidden_states, attentions: whether they are returned, as `hidden_states.0` and so on.

    Returns:
        Numbers where the config says them, else "batch_size", "seq_len", "num_choices", or "sequences", which is the
        batch size, times the number of choices where there are any.
    """
    head, layers = HEADS[architecture], range(config.num_layers)
    shapes: Shapes = {"loss": ()} if head.labels and set(head.labels) <= set(given) else {}
    shapes |= head.fields
    if head is ENCODER and config.add_pooling_layer:
        shapes["pooler_output"] = "batch_size", "hidden_size"
    if hidden_states:
        shapes |= {f"hidden_states.{i}": ("sequences", "seq_len", "hidden_size") for i in (*layers, len(layers))}
    if attentions:
        shapes |= {f"attentions.{i}": ("sequences", "num_heads", "seq_len", "seq_len") for i in layers}
    return {name: tuple(getattr(config, dim, dim) for dim in dims) for name, dims in shapes.items()}


def flat(fields: Mapping[str, Any]) -> list[Any]:
    """All arrays of an output in order, tuples laid out."""
    return [part for value in fields.values() for part in (value if isinstance(value, tuple) else (value,))]


def nested(names: Iterable[str], arrays: Iterable[Any]) -> dict[str, Any]:
    """The fields of an output, of the arrays that `flat` gave and their names."""
    fields: dict[str, Any] = {}
    for name, array in zip(names, arrays, strict=True):
        field, _, index = name.partition(".")
        fields[field] = (*fields.get(field, ()), array) if index else array
    return fields
