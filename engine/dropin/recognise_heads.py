"""Finds the head that reads an encoder in a captured FX graph, if it is one of DistilBERT's."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

from torch.fx import Node

from distilrt.dropin.fx_layers import activation_of, is_identity_dropout, layer_norm_of, linear_of
from distilrt.dropin.fx_nodes import Different, shape_of
from distilrt.dropin.recognise import Encoder


@dataclass
class Head:
    """What turns the last hidden states into scores."""

    kind: str  # name of the function in `distilrt.model.heads` that computes it
    weights: dict[str, Node]  # the reference's name to the placeholder of the parameter
    activation: str  # only of masked_lm
    scores: Node
    width: int  # of the scores


def head_of(encoder: Encoder) -> Head | None:
    """The head of an encoder; None where other nodes than one of a head read its states, or in another way."""
    states = {alias for aliases in encoder.states for alias in aliases}
    readers = {user for alias in states for user in alias.users} - encoder.inner - states
    if len(readers) != 1:
        return None
    (reader,) = readers
    if not set(reader.all_input_nodes) & set(encoder.states[-1]):
        return None
    kinds = (_of_a_sequence,) if takes_first(reader, encoder.states[-1]) else (_masked_lm, _of_each_token)
    for kind in kinds:
        try:
            head = kind(reader)
        except Different:
            continue
        if _fits(head, encoder.config.hidden_size):
            return head
    return None


def takes_first(user: Node, states: list[Node]) -> bool:
    """Whether a node is position 0 of a batch of sequences, `states[:, 0]`."""
    if user.target is not operator.getitem or user.args[0] not in states:
        return False
    index = user.args[1]
    everything = slice(None)
    return isinstance(index, tuple) and index[:2] == (everything, 0) and all(part == everything for part in index[2:])


def _of_a_sequence(reader: Node) -> Head:
    steps = _steps(reader)
    inner, _ = linear_of(next(steps), "pre_classifier")
    name, _ = activation_of(next(steps))
    scores = next(steps)
    outer, _ = linear_of(scores, "classifier")
    if name != "relu":
        raise Different
    return Head("sequence_classification", inner | outer, "", scores, _width(scores))


def _masked_lm(reader: Node) -> Head:
    steps = _steps(reader, and_itself=True)
    transform, _ = linear_of(next(steps), "vocab_transform")
    activation, _ = activation_of(next(steps))
    norm, _ = layer_norm_of(next(steps), "vocab_layer_norm")
    scores = next(steps)
    projector, _ = linear_of(scores, "vocab_projector")
    return Head("masked_lm", transform | norm | projector, activation, scores, _width(scores))


def _of_each_token(reader: Node) -> Head:
    scores = next(_steps(reader, and_itself=True))
    weights, _ = linear_of(scores, "classifier")
    return Head("token_classification", weights, "", scores, _width(scores))


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


def _width(scores: Node) -> int:
    width = shape_of(scores)[-1]
    if not isinstance(width, int):
        raise Different
    return width


def _fits(head: Head, hidden_size: int) -> bool:
    """Whether parameters have the shapes that the engine's head has."""
    square = ("pre_classifier.weight", "vocab_transform.weight")
    for name, node in head.weights.items():
        shape = shape_of(node)
        if name in square:
            expected: tuple[int, ...] = (hidden_size, hidden_size)
        elif name.endswith("weight") and len(shape) == 2:
            expected = (head.width, hidden_size)
        else:
            scores = name in ("classifier.bias", "vocab_projector.bias")
            expected = (head.width if scores else hidden_size,)
        if shape != expected:
            return False
    return True
