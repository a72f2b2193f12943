"""Finds the head that reads an encoder in a captured FX graph, if it is one of DistilBERT's."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from torch.fx import Node

from distilrt.dropin.fx_layers import activation_of, is_identity_dropout, layer_norm_of, linear_of
from distilrt.dropin.fx_nodes import Different, shape_of
from distilrt.dropin.recognise import Encoder
from distilrt.model.heads import HEADS, Head, Norm, Projection


@dataclass
class FoundHead:
    """What turns the last hidden states into scores."""

    head: Head  # with the activations that the graph has
    weights: dict[str, Node]  # the reference's name to the placeholder of the parameter
    scores: Node
    width: int  # of the scores


def head_of(encoder: Encoder) -> FoundHead | None:
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
                return _match(head, reader, encoder.config.hidden_size)
    return None


def takes_first(user: Node, states: list[Node]) -> bool:
    """Whether a node is position 0 of a batch of sequences, `states[:, 0]`."""
    if user.target is not operator.getitem or user.args[0] not in states:
        return False
    index = user.args[1]
    everything = slice(None)
    return isinstance(index, tuple) and index[:2] == (everything, 0) and all(part == everything for part in index[2:])


def _match(head: Head, reader: Node, hidden_size: int) -> FoundHead:
    """The head in the graph from the first node that reads hidden states on.

    Raises:
        Different: the graph computes something else.
    """
    steps = _steps(reader, and_itself=head.reads == "all")
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
                if layer.activation not in ("config", activation):
                    raise Different
                layer = replace(layer, activation=activation)
        weights |= found
        layers.append(layer)
    width = shape_of(scores)[-1]
    if not isinstance(width, int):
        raise Different
    sizes: dict[str | int, int] = {"hidden_size": hidden_size, str(head.width): width}
    for name, dimensions in head.tensors.items():
        if shape_of(weights[name]) != tuple(sizes.get(dimension, dimension) for dimension in dimensions):
            raise Different
    return FoundHead(replace(head, layers=tuple(layers)), weights, scores, width)


def _steps(node: Node, and_itself: bool = False) -> Iterator[Node]:
    """The nodes that follow one another from `node` on, each the only reader of the last; dropout is left out.

    Raises:
        Different: a node has several readers, or none.
    """
    if and_itself and not is_identity_dropout(node):
        yield node
    while True:
        if len(node.users) != 1:
            raise Different
        (node,) = node.users
        if not is_identity_dropout(node):
            yield node
