"""Reading nodes of a captured FX graph: what torch knows of their values without computing them, and plain layers.

Each node's `meta["example_value"]` is a fake tensor of its shape, dtype and device, or a number that may be a symbol.
All functions raise `Different` where a node is not what they read.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional

from distilrt.model.config import LAYER_NORM_EPS


class Different(Exception):
    """What was looked for is not there."""


def as_node(value: Any) -> Node:
    """The value, which must not be a constant."""
    if not isinstance(value, Node):
        raise Different
    return value


def value_of(node: Node) -> Any:
    """A fake tensor or a number that stands for what a node computes."""
    if "example_value" not in node.meta:
        raise Different
    return node.meta["example_value"]


def shape_of(node: Any) -> tuple[Any, ...]:
    """The shape of a node's tensor; sizes may be symbols."""
    return tuple(value_of(as_node(node)).shape)


def same_shape(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two shapes are equal for all sizes that the graph is for, without narrowing these."""
    return len(a) == len(b) and all(statically_known_true(x == y) for x, y in zip(a, b, strict=True))


def number_of(value: Any, default: float) -> float:
    """A constant of the graph; torch makes even a module's floats inputs of it where all is dynamic."""
    if value is None:
        return default
    return float(value_of(value) if isinstance(value, Node) else value)


def method_of(node: Node) -> str:
    """Name of the tensor method that a node calls, "" for other nodes."""
    return str(node.target) if node.op == "call_method" else ""


def call_of(node: Node, target: Any, *names: str) -> dict[str, Any]:
    """Arguments of a call of the function `target` by name, None where not given."""
    if node.op != "call_function" or node.target is not target:
        raise Different
    return dict.fromkeys(names) | dict(zip(names, node.args, strict=False)) | node.kwargs


def ancestors(node: Node, border: Container[Node] = ()) -> list[Node]:
    """A node and all that it is computed from, in the graph's order, up to the nodes of `border`."""
    found, todo = {node}, [node]
    while todo:
        new = {source for source in todo.pop().all_input_nodes if source not in found and source not in border}
        found |= new
        todo += new
    return [other for other in node.graph.nodes if other in found]


def source_of(node: Any) -> Node:
    """The node whose numbers a node only passes on: through dropout at inference, and casts and views to the same."""
    source = as_node(node)
    while _passes_on(source):
        source = as_node(source.args[0])
    return source


def _passes_on(node: Node) -> bool:
    if node.target is functional.dropout:
        given = dict(zip(("input", "p", "training"), node.args, strict=False)) | node.kwargs
        return given.get("training", True) is False
    if method_of(node) not in ("contiguous", "to", "reshape", "view", "float", "type_as"):
        return False
    before, after = value_of(as_node(node.args[0])), value_of(node)
    if not isinstance(before, torch.Tensor) or (before.dtype, before.device) != (after.dtype, after.device):
        return False
    return same_shape(before.shape, after.shape)


def linear_of(node: Node, name: str) -> tuple[dict[str, Node], Node]:
    """Weight and bias of a linear layer, by `name`, and its input."""
    linear = call_of(node, functional.linear, "input", "weight", "bias")
    return _parameters(name, linear), source_of(linear["input"])


def layer_norm_of(node: Node, name: str) -> tuple[dict[str, Node], Node]:
    """Weight and bias of a layer norm over the last axis, with DistilBERT's epsilon, and its input."""
    norm = call_of(node, functional.layer_norm, "input", "normalized_shape", "weight", "bias", "eps")
    if len(norm["normalized_shape"]) != 1 or not math.isclose(number_of(norm["eps"], 1e-5), LAYER_NORM_EPS):
        raise Different
    return _parameters(name, norm), source_of(norm["input"])


def activation_of(node: Node) -> tuple[str, Node]:
    """Name of an activation, as configs have it, and its input."""
    for target, name in ((functional.relu, "relu"), (torch.relu, "relu"), (functional.silu, "silu")):
        if node.target is target:
            return name, source_of(node.args[0])
    gelu = call_of(node, functional.gelu, "input", "approximate")
    return "gelu_pytorch_tanh" if gelu["approximate"] == "tanh" else "gelu", source_of(gelu["input"])


def embedding_of(node: Node) -> tuple[Node, Node]:
    """Indices and table of a plain look-up."""
    names = "input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"
    call = call_of(node, functional.embedding, *names)
    if call["max_norm"] is not None:
        raise Different
    return as_node(call["input"]), _parameter(call["weight"])


def _parameters(name: str, call: dict[str, Any]) -> dict[str, Node]:
    return {f"{name}.{part}": _parameter(call[part]) for part in ("weight", "bias")}


def _parameter(value: Any) -> Node:
    """The value, which must be an argument of the graph that holds float32 on the CPU."""
    node = as_node(value)
    seen = value_of(node) if node.op == "placeholder" else None
    if not isinstance(seen, torch.Tensor) or seen.dtype != torch.float32 or seen.device.type != "cpu":
        raise Different
    return node
