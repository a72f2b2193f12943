"""Finds DistilBERT encoders and their heads in a captured FX graph, by what is computed, whatever anything is called.

A match is exact: every operation from the embeddings to the last layer norm must be the one that the engine computes,
on parameters of the shapes that it expects. So a subclass that changes nothing, a wrapper and a part of a larger
program are found, and a model with an adapter, a hook or another activation is not.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node
from torch.nn import functional

from distilrt.dropin.graph_nodes import (
    Different,
    activation_of,
    ancestors,
    as_node,
    call_of,
    embedding_of,
    layer_norm_of,
    linear_of,
    method_of,
    number_of,
    same_shape,
    shape_of,
    source_of,
    value_of,
)
from distilrt.dropin.padding_masks import padding_mask
from distilrt.model.architecture import POSITIONS, WORDS, expected_shapes
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS, Head, Norm, Projection

_Setting = tuple[Node | None, int, str]  # the mask as attention sees it, number of heads, activation


@dataclass
class FoundEncoder:
    """One encoder in a graph."""

    config: DistilBertConfig
    weights: dict[str, Node]  # canonical name to the placeholder of the parameter
    inputs: dict[str, Node]  # input_ids or inputs_embeds, position_ids, and attention_mask if there is one
    states: list[list[Node]]  # of the embeddings and each layer: the nodes that all hold its output
    inner: set[Node]  # every other node that belongs to it


@dataclass
class FoundHead:
    """What turns the last hidden states into scores."""

    head: Head  # with the activations that the graph has
    weights: dict[str, Node]  # the reference's name to the placeholder of the parameter
    scores: Node
    width: int  # of the scores


def encoders(graph: torch.fx.Graph) -> Iterator[FoundEncoder]:
    """Every encoder in a graph, none of them part of another."""
    taken: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "call_function" and node.target is functional.layer_norm and node not in taken:
            try:
                encoder = _encoder(node)
            except (Different, ValueError):  # a config can refuse the shapes
                continue
            taken |= encoder.inner | {alias for aliases in encoder.states for alias in aliases}
            yield encoder


def head_behind(encoder: FoundEncoder) -> FoundHead | None:
    """The head of an encoder; None where other nodes than one of a head read its states, or in another way."""
    states = {alias for aliases in encoder.states for alias in aliases}
    readers = {user for alias in states for user in alias.users} - encoder.inner - states
    if len(readers) != 1:
        return None
    (reader,) = readers
    if not set(reader.all_input_nodes) & set(encoder.states[-1]):
        return None
    reads = "first" if takes_first(reader, encoder.states[-1]) else "all"
    for head in HEADS.values():
        if head.layers and head.reads == reads:
            with suppress(Different):
                return _head(head, reader, encoder.config.hidden_size)
    return None


def takes_first(user: Node, states: list[Node]) -> bool:
    """Whether a node is position 0 of a batch of sequences, `states[:, 0]`."""
    if user.target is not operator.getitem or user.args[0] not in states:
        return False
    index = user.args[1]
    everything = slice(None)
    return isinstance(index, tuple) and index[:2] == (everything, 0) and all(part == everything for part in index[2:])


def _encoder(last: Node) -> FoundEncoder:
    """Read one encoder backwards from its last layer norm."""
    layers: list[dict[str, Node]] = []
    states = [last]
    settings: set[_Setting] = set()
    while True:
        try:
            weights, words, position_ids = _embeddings(states[-1])
            break
        except Different:
            layer, below, setting = _layer(states[-1])
        layers.append(layer)
        states.append(below)
        settings.add(setting)
    if len(settings) != 1:
        raise Different
    ((seen_mask, num_heads, activation),) = settings
    for i, layer in enumerate(reversed(layers)):
        weights |= {f"transformer.layer.{i}.{name}": node for name, node in layer.items()}
    inputs = {"inputs_embeds": words, "position_ids": position_ids}
    grid = shape_of(words)[:2]
    if words.target is functional.embedding:
        ids, weights[WORDS] = embedding_of(words)
        inputs = {"input_ids": ids, "position_ids": position_ids}
        if not same_shape(shape_of(ids), grid):
            raise Different
    config = DistilBertConfig(
        vocab_size=shape_of(weights[WORDS])[0] if WORDS in weights else 1,
        max_position_embeddings=shape_of(weights[POSITIONS])[0],
        n_layers=len(layers),
        n_heads=num_heads,
        dim=shape_of(words)[2],
        hidden_dim=shape_of(layers[0]["ffn.lin1.weight"])[0],
        activation=activation,
        pad_token_id=None,
    )
    expected = expected_shapes(config, "DistilBertModel")
    if value_of(words).dtype != torch.float32 or not all(
        same_shape(shape_of(node), expected[name]) for name, node in weights.items()
    ):
        raise Different
    border = {*weights.values(), *inputs.values()}
    if seen_mask is not None:
        border.add(seen_mask)
        inputs["attention_mask"] = padding_mask(seen_mask, grid)
    groups: dict[Node, list[Node]] = {state: [] for state in reversed(states)}
    for node in last.graph.nodes:
        with suppress(Different):  # what torch noted no value of passes nothing on
            groups.get(source_of(node), []).append(node)
    aliases = {alias for group in groups.values() for alias in group}
    inner = {node for node in ancestors(last, border) if node.op != "placeholder"} - aliases
    return FoundEncoder(config, weights, inputs, list(groups.values()), inner)


def _embeddings(state: Node) -> tuple[dict[str, Node], Node, Node]:
    """Read `LayerNorm(words + positions)`: parameters, words `[batch_size, seq_len, hidden_size]`, position ids."""
    norm, total = layer_norm_of(state, "embeddings.LayerNorm")
    words, place = _operands(total)
    position_ids, table = embedding_of(place)
    if len(shape_of(words)) != 3:
        raise Different
    return norm | {POSITIONS: table}, words, position_ids


def _layer(state: Node) -> tuple[dict[str, Node], Node, _Setting]:
    """Read one layer: parameters, its input, and what must be the same in all layers."""
    output_norm, total = layer_norm_of(state, "output_layer_norm")
    inner, middle = map(source_of, _operands(total))
    lin2, activated = linear_of(inner, "ffn.lin2")
    activation, lin1_out = activation_of(activated)
    lin1, again = linear_of(lin1_out, "ffn.lin1")
    attention_norm, attended = layer_norm_of(middle, "sa_layer_norm")
    projected, below = map(source_of, _operands(attended))
    out, context = linear_of(projected, "attention.out_lin")
    attention, head_dim = _attention(context)
    parameters = output_norm | lin2 | lin1 | attention_norm | out
    sources = []
    for side in ("query", "key", "value"):
        linear, source = linear_of(_head_split(attention[side]), f"attention.{side[0]}_lin")
        parameters |= linear
        sources.append(source)
    if again is not middle or sources != [below] * 3:
        raise Different
    return parameters, below, (attention["attn_mask"], shape_of(below)[2] // head_dim, activation)


def _attention(joined: Node) -> tuple[dict[str, Any], int]:
    """Read `softmax(Q Kᵀ / sqrt(head_dim) + mask) V` with its heads put side by side again."""
    if method_of(joined) not in ("reshape", "view", "flatten"):
        raise Different
    side_by_side = _transposed(source_of(joined.args[0]))
    names = "query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"
    attention = call_of(side_by_side, functional.scaled_dot_product_attention, *names)
    heads, head_dim = shape_of(side_by_side), shape_of(attention["query"])[-1]
    scale = number_of(attention["scale"], head_dim**-0.5)
    if (
        not same_shape(shape_of(joined), (heads[0], heads[2], heads[1] * heads[3]))
        or attention["is_causal"]
        or attention["enable_gqa"]
        or number_of(attention["dropout_p"], 0.0)
        or not math.isclose(scale, head_dim**-0.5, rel_tol=1e-6)
    ):
        raise Different
    return attention, head_dim


def _head_split(node: Any) -> Node:
    """Read back through `[batch_size, num_heads, seq_len, head_dim]` to `[batch_size, seq_len, hidden_size]`."""
    split = _transposed(source_of(node))
    if method_of(split) not in ("view", "reshape", "unflatten"):
        raise Different
    source = source_of(split.args[0])
    before, after = shape_of(source), shape_of(split)
    if len(before) != 3 or len(after) != 4 or not same_shape(after[:2], before[:2]):
        raise Different
    return source


def _transposed(node: Node) -> Node:
    if method_of(node) != "transpose" or sorted(node.args[1:], key=str) != [1, 2]:
        raise Different
    return source_of(node.args[0])


def _operands(node: Node) -> tuple[Node, Node]:
    if node.target not in (operator.add, torch.add) or node.kwargs or len(node.args) != 2:
        raise Different
    return as_node(node.args[0]), as_node(node.args[1])


def _head(head: Head, reader: Node, hidden_size: int) -> FoundHead:
    """The head in the graph from the first node that reads hidden states on.

    Raises:
        Different: the graph computes something else.
    """
    steps = _steps(reader)
    if head.reads == "first":
        next(steps)
    weights: dict[str, Node] = {}
    layers: list[Projection | Norm] = []
    for layer in head.layers:
        scores = next(steps)
        if isinstance(layer, Norm):
            found, _ = layer_norm_of(scores, layer.name)
        else:
            found, _ = linear_of(scores, layer.name)
            if layer.activation is not None:
                activation, _ = activation_of(next(steps))
                own = "relu" if layer.activation == "pooled" else layer.activation  # graphs are DistilBERT's
                if own not in ("config", activation):
                    raise Different
                layer = replace(layer, activation=activation)
        weights |= found
        layers.append(layer)
    width = shape_of(scores)[-1]
    sizes: dict[str | int, int] = {"hidden_size": hidden_size, str(head.width): width}
    shapes = {name: tuple(sizes.get(dim, dim) for dim in dims) for name, dims in head.tensors.items()}
    if not isinstance(width, int) or shapes != {name: shape_of(node) for name, node in weights.items()}:
        raise Different
    return FoundHead(replace(head, layers=tuple(layers)), weights, scores, width)


def _steps(node: Node) -> Iterator[Node]:
    """`node` and those that follow one another from it, each the only reader of the last; dropout is left out.

    Raises:
        Different: a node has several readers, or none.
    """
    while True:
        if source_of(node) is node:
            yield node
        if len(node.users) != 1:
            raise Different
        (node,) = node.users
