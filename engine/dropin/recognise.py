"""Finds DistilBERT encoders in a captured FX graph, by what is computed and not by what anything is called.

A match is exact: every operation from the embeddings to the last layer norm must be the one that the engine computes,
on parameters of the shapes that it expects. So a subclass that changes nothing, a wrapper and a part of a larger
program are found, and a model with an adapter, a hook or another activation is not.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.nn import functional

from distilrt.dropin.fx_layers import activation_of, is_identity_dropout, is_parameter, layer_norm_of, linear_of
from distilrt.dropin.fx_nodes import Different, as_node, call_of, method_of, number_of, same_shape, shape_of, value_of
from distilrt.dropin.padding_masks import padding_mask
from distilrt.model.architecture import expected_shapes
from distilrt.model.config import DistilBertConfig

_WORDS, _POSITIONS = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"


@dataclass
class Encoder:
    """One encoder in a graph."""

    config: DistilBertConfig
    weights: dict[str, Node]  # canonical name to the placeholder of the parameter
    input_ids: Node | None
    inputs_embeds: Node | None
    position_ids: Node
    attention_mask: Node | None
    states: list[list[Node]]  # of the embeddings and each layer: the nodes that all hold its output
    inner: set[Node]  # every other node that belongs to it


def encoders(graph: torch.fx.Graph) -> Iterator[Encoder]:
    """Every encoder in a graph, none of them part of another."""
    taken: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "call_function" and node.target is functional.layer_norm and node not in taken:
            try:
                encoder = _Matcher(node).encoder
            except (Different, ValueError):  # a config can refuse the shapes
                continue
            taken |= encoder.inner | {alias for aliases in encoder.states for alias in aliases}
            yield encoder


class _Matcher:
    """Reads one encoder backwards from its last layer norm."""

    def __init__(self, last: Node) -> None:
        self._inner: set[Node] = set()
        self._aliases: dict[Node, list[Node]] = {}
        layers: list[dict[str, Node]] = []
        states = [last]
        masks: list[Node | None] = []
        heads: list[int] = []
        names: list[str] = []
        while True:
            try:
                embeddings = self._embeddings(states[-1])
                break
            except Different:
                layer, below, mask, num_heads, activation = self._layer(states[-1])
            layers.append(layer)
            states.append(below)
            masks.append(mask)
            heads.append(num_heads)
            names.append(activation)
        if not layers or len(set(heads)) > 1 or len(set(names)) > 1 or len(set(masks)) > 1:
            raise Different
        weights, words, position_ids = embeddings
        for i, layer in enumerate(reversed(layers)):
            weights |= {f"transformer.layer.{i}.{name}": node for name, node in layer.items()}
        ids = None
        if words.target is functional.embedding:
            ids, weights[_WORDS] = _embedding(words)
            self._inner.add(words)
        grid, hidden_size = shape_of(words)[:2], shape_of(words)[2]
        config = DistilBertConfig(
            vocab_size=1 if ids is None else shape_of(weights[_WORDS])[0],
            max_position_embeddings=shape_of(weights[_POSITIONS])[0],
            n_layers=len(layers),
            n_heads=heads[0],
            dim=hidden_size,
            hidden_dim=shape_of(layers[0]["ffn.lin1.weight"])[0],
            activation=names[0],
            pad_token_id=None,
        )
        expected = expected_shapes(config, "DistilBertModel")
        if not (
            all(same_shape(shape_of(node), expected[name]) for name, node in weights.items())
            and (ids is None or same_shape(shape_of(ids), grid))
            and value_of(words).dtype == torch.float32
        ):
            raise Different
        mask = None if masks[0] is None else padding_mask(masks[0], grid)
        aliases = [[state, *self._aliases.get(state, ())] for state in reversed(states)]
        inner = self._inner - {alias for group in aliases for alias in group}
        embeds = words if ids is None else None
        self.encoder = Encoder(config, weights, ids, embeds, position_ids, mask, aliases, inner)

    def _embeddings(self, state: Node) -> tuple[dict[str, Node], Node, Node]:
        """Read `LayerNorm(words + positions)`: parameters, words `[batch_size, seq_len, hidden_size]`, position ids."""
        norm, total = self._layer_norm(state, "embeddings.LayerNorm")
        words, place = self._operands(total)
        position_ids, table = _embedding(place)
        if len(shape_of(words)) != 3:
            raise Different
        self._inner |= {total, place}
        return norm | {_POSITIONS: table}, words, position_ids

    def _layer(self, state: Node) -> tuple[dict[str, Node], Node, Node | None, int, str]:
        """Read one layer: parameters, its input, the mask as attention sees it, number of heads, activation."""
        output_norm, total = self._layer_norm(state, "output_layer_norm")
        inner, middle = (self._through(node) for node in self._operands(total))
        lin2, activated = self._linear(inner, "ffn.lin2")
        activation = self._through(activated)
        self._inner.add(activation)
        name, lin1_out = activation_of(activation)
        lin1, again = self._linear(self._through(lin1_out), "ffn.lin1")
        if self._through(again) is not middle:
            raise Different
        attention_norm, attended = self._layer_norm(middle, "sa_layer_norm")
        projected, below = (self._through(node) for node in self._operands(attended))
        out, context = self._linear(projected, "attention.out_lin")
        queries, keys, values, mask, head_dim = self._attention(context)
        parameters = output_norm | lin2 | lin1 | attention_norm | out
        for side, letter in ((queries, "q"), (keys, "k"), (values, "v")):
            linear, source = self._linear(self._head_split(side), f"attention.{letter}_lin")
            if self._through(source) is not below:
                raise Different
            parameters |= linear
        self._inner |= {total, attended, middle}
        return parameters, below, mask, shape_of(below)[2] // head_dim, name

    def _attention(self, context: Node) -> tuple[Node, Node, Node, Node | None, int]:
        """Read `softmax(Q Kᵀ / sqrt(head_dim) + mask) V` with its heads put side by side again."""
        joined = self._through(context)
        if method_of(joined) not in ("reshape", "view", "flatten"):
            raise Different
        back = self._through(joined.args[0])
        side_by_side = self._transposed(back)
        attention = call_of(side_by_side, functional.scaled_dot_product_attention, "query", "key", "value", "attn_mask",
                           "dropout_p", "is_causal", "scale", "enable_gqa")  # fmt: skip
        heads, (_, _, _, head_dim) = shape_of(side_by_side), shape_of(attention["query"])
        if not same_shape(shape_of(joined), (heads[0], heads[2], heads[1] * heads[3])):
            raise Different
        scale = number_of(attention["scale"], head_dim**-0.5)
        if (
            attention["is_causal"]
            or attention["enable_gqa"]
            or number_of(attention["dropout_p"], 0.0)
            or not math.isclose(scale, head_dim**-0.5, rel_tol=1e-6)
        ):
            raise Different
        self._inner |= {joined, back, side_by_side}
        return attention["query"], attention["key"], attention["value"], attention["attn_mask"], head_dim

    def _head_split(self, node: Node) -> Node:
        """Read back through `[batch_size, num_heads, seq_len, head_dim]` to `[batch_size, seq_len, hidden_size]`."""
        node = self._through(node)
        split = self._transposed(node)
        if method_of(split) not in ("view", "reshape", "unflatten"):
            raise Different
        source = self._through(split.args[0])
        if (
            len(shape_of(source)) != 3
            or not same_shape(shape_of(split)[:2], shape_of(source)[:2])
            or len(shape_of(split)) != 4
        ):
            raise Different
        self._inner |= {node, split}
        return source

    def _transposed(self, node: Node) -> Node:
        if method_of(node) != "transpose" or sorted(node.args[1:], key=str) != [1, 2]:
            raise Different
        return self._through(node.args[0])

    def _layer_norm(self, node: Node, name: str) -> tuple[dict[str, Node], Node]:
        parameters, source = layer_norm_of(node, name)
        return parameters, self._through(source)

    def _linear(self, node: Node, name: str) -> tuple[dict[str, Node], Node]:
        self._inner.add(node)
        return linear_of(node, name)

    def _operands(self, node: Node) -> tuple[Node, Node]:
        if node.target not in (operator.add, torch.add) or node.kwargs or len(node.args) != 2:
            raise Different
        return as_node(node.args[0]), as_node(node.args[1])

    def _through(self, node: Any) -> Node:
        """The node whose numbers this one only passes on: dropout at inference, or a cast or view to the same."""
        passed: list[Node] = []
        source = as_node(node)
        while _passes_on(source):
            passed.append(source)
            source = as_node(source.args[0])
        known = self._aliases.setdefault(source, [])
        known += [alias for alias in passed if alias not in known]
        self._inner |= set(passed)
        return source


def _passes_on(node: Node) -> bool:
    if is_identity_dropout(node):
        return True
    if method_of(node) in ("contiguous", "to", "reshape", "view", "float", "type_as"):
        source = node.args[0]
        if not isinstance(source, Node):
            return False
        before, after = value_of(source), value_of(node)
        alike = before.dtype == after.dtype and before.device == after.device
        return bool(alike) and same_shape(tuple(before.shape), tuple(after.shape))
    return False


def _embedding(node: Node) -> tuple[Node, Node]:
    """Indices and table of a plain look-up."""
    call = call_of(node, functional.embedding, "input", "weight", "padding_idx", "max_norm", "norm_type",
                  "scale_grad_by_freq", "sparse")  # fmt: skip
    if call["max_norm"] is not None or not is_parameter(call["weight"]):
        raise Different
    return as_node(call["input"]), call["weight"]
