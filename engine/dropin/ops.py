"""The engine as opaque torch operators, so that a compiled program can hold it without a graph break.

An operator gets its model by a number, for a graph can hold no object. What an operator's outputs look like follows
from its other arguments alone: compiled programs are cached on disk by their text, and the number may then be another
model's. Registers `torch.ops.distilrt.*` on import.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distilrt.model.heads import HEADS

_number = itertools.count(1).__next__
_registered: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

# The GPU backend replays CUDA graphs of its own, which can't be captured into those of `mode="reduce-overhead"`.
_NO_GRAPH: dict[str, Any] = {"tags": [torch.Tag.cudagraph_unsafe]} if hasattr(torch.Tag, "cudagraph_unsafe") else {}
_SIZES = ("hidden_size", "vocab_size", "num_labels", "num_heads", "num_layers")


def register(thing: Any) -> int:
    """The number by which operators find `thing`, for as long as somebody else holds it."""
    number = _number()
    _registered[number] = thing
    return number


def found(number: int) -> Any:
    """What was registered under a number.

    Raises:
        RuntimeError: it is gone.
    """
    try:
        return _registered[number]
    except KeyError:
        raise RuntimeError("the model of this compiled program is gone; compile the program again") from None


def forward(
    number: int,
    config: Any,
    architecture: str,
    arguments: Mapping[str, torch.Tensor | None],
    hidden_states: bool = False,
    attentions: bool = False,
) -> dict[str, Any]:
    """A model's forward as one operator of the graph that is being captured.

    Args:
        number: from `register`, of an object whose `engine` is a model of `distilrt.model.models`.
        config: the engine's config.
        architecture: the engine's.
        arguments: the engine's tensor arguments by name.
        hidden_states, attentions: whether to return them.

    Returns:
        The engine's fields, as torch tensors and tuples of them.
    """
    given = {name: tensor for name, tensor in arguments.items() if tensor is not None}
    sizes = [getattr(config, name) for name in _SIZES]
    flat = torch.ops.distilrt.forward(
        number, architecture, ",".join(given), list(given.values()), sizes, hidden_states, attentions
    )
    shapes = _outputs(architecture, list(given), sizes, hidden_states, attentions)
    fields: dict[str, Any] = {}
    for name, tensor in zip(shapes, flat, strict=True):
        field, _, index = name.partition(".")
        fields[field] = (*fields.get(field, ()), tensor) if index else tensor
    return fields


def _outputs(
    architecture: str, given: Sequence[str], sizes: Sequence[int], hidden_states: bool, attentions: bool
) -> dict[str, tuple[str, ...]]:
    """Name and dimensions of every output, in order."""
    head = HEADS[architecture]
    outputs: dict[str, tuple[str, ...]] = {"loss": ()} if head.labels and set(head.labels) <= set(given) else {}
    outputs |= head.fields
    layers = sizes[_SIZES.index("num_layers")]
    if hidden_states:
        outputs |= {f"hidden_states.{i}": ("sequences", "seq_len", "hidden_size") for i in range(layers + 1)}
    if attentions:
        outputs |= {f"attentions.{i}": ("sequences", "num_heads", "seq_len", "seq_len") for i in range(layers)}
    return outputs


@torch.library.custom_op("distilrt::forward", mutates_args=(), **_NO_GRAPH)
def _forward(
    number: int,
    architecture: str,
    names: str,
    tensors: list[torch.Tensor],
    sizes: list[int],
    hidden_states: bool,
    attentions: bool,
) -> list[torch.Tensor]:
    engine = found(number).engine
    fields = engine.forward(
        **dict(zip(names.split(","), tensors, strict=True)),
        output_hidden_states=hidden_states,
        output_attentions=attentions,
        return_dict=True,
    )
    flat = [part for value in fields.values() for part in (value if isinstance(value, tuple) else (value,))]
    # An operator's outputs must not share memory, and the last hidden state is also the last of the hidden states.
    first = {tensor.data_ptr(): i for i, tensor in reversed(list(enumerate(flat)))}
    return [tensor if first[tensor.data_ptr()] == i else tensor.clone() for i, tensor in enumerate(flat)]


@_forward.register_fake
def _(
    number: int,
    architecture: str,
    names: str,
    tensors: list[torch.Tensor],
    sizes: list[int],
    hidden_states: bool,
    attentions: bool,
) -> list[torch.Tensor]:
    arguments = dict(zip(names.split(","), tensors, strict=True))
    embeds = arguments.get("inputs_embeds")
    shape = arguments["input_ids"].shape if embeds is None else embeds.shape[:-1]
    dims: dict[str, Any] = dict(zip(_SIZES, sizes, strict=True)) | {"batch_size": shape[0], "seq_len": shape[-1]}
    dims["sequences"] = shape[0]
    if len(shape) == 3:
        dims |= {"num_choices": shape[1], "sequences": shape[0] * shape[1]}
    like = tensors[0]
    return [
        like.new_empty([dims[dim] for dim in dimensions], dtype=torch.float32)
        for dimensions in _outputs(architecture, list(arguments), sizes, hidden_states, attentions).values()
    ]


@torch.library.custom_op("distilrt::encode", mutates_args=(), **_NO_GRAPH)
def encode(
    number: int,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    position_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    width: int,
    num_states: int,
    first_only: bool,
) -> torch.Tensor:
    """An encoder's hidden states, or what its head makes of them, at masked positions too.

    Args:
        number: from `register`, of a callable that takes the next four, `num_states` and `first_only`.
        input_ids: `[batch_size, seq_len]`; or None with `inputs_embeds` `[batch_size, seq_len, hidden_size]`.
        position_ids: `[batch_size, seq_len]` or `[1, seq_len]`.
        attention_mask: `[batch_size, seq_len]` of 0 and 1; None: all 1.
        width: of the result: the encoder's hidden size, or that of its head.
        num_states: 0: the last layer's hidden states alone; else 1 + the number of layers: every one's.
        first_only: only position 0; not with `num_states`.

    Returns:
        `[batch_size, seq_len, width]`; `[num_states, batch_size, …]` of every layer; `[batch_size, width]` of position
        0.
    """
    states: torch.Tensor = found(number)(
        input_ids, inputs_embeds, position_ids, attention_mask, num_states > 0, first_only
    )
    return states


@encode.register_fake
def _(
    number: int,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    position_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    width: int,
    num_states: int,
    first_only: bool,
) -> torch.Tensor:
    given = inputs_embeds if input_ids is None else input_ids
    assert given is not None
    batch_size, seq_len = given.shape[:2]
    shape = [batch_size, width] if first_only else [batch_size, seq_len, width]
    return given.new_empty([num_states, *shape] if num_states else shape, dtype=torch.float32)
