"""Layers that DistilBERT is made of, read off nodes of a captured FX graph: their parameters and their input."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node
from torch.nn import functional

from distilrt.dropin.fx_nodes import Different, as_node, call_of, number_of, value_of
from distilrt.model.config import LAYER_NORM_EPS


def linear_of(node: Node, name: str) -> tuple[dict[str, Node], Node]:
    """Weight and bias of a linear layer, by `name`, and its input.

    Raises:
        Different: it is none, or one without a bias; so too for the other layers.
    """
    linear = call_of(node, functional.linear, "input", "weight", "bias")
    return _pair(name, linear), as_node(linear["input"])


def layer_norm_of(node: Node, name: str) -> tuple[dict[str, Node], Node]:
    """Weight and bias of a layer norm over the last axis, with DistilBERT's epsilon, and its input."""
    norm = call_of(node, functional.layer_norm, "input", "normalized_shape", "weight", "bias", "eps")
    if len(norm["normalized_shape"]) != 1 or not math.isclose(number_of(norm["eps"], 1e-5), LAYER_NORM_EPS):
        raise Different
    return _pair(name, norm), as_node(norm["input"])


def activation_of(node: Node) -> tuple[str, Node]:
    """Name of an activation, as configs have it, and its input."""
    for target, name in ((functional.relu, "relu"), (torch.relu, "relu"), (functional.silu, "silu")):
        if node.target is target:
            return name, as_node(node.args[0])
    gelu = call_of(node, functional.gelu, "input", "approximate")
    return "gelu_pytorch_tanh" if gelu["approximate"] == "tanh" else "gelu", as_node(gelu["input"])


def is_identity_dropout(node: Node) -> bool:
    """Whether a node is dropout at inference."""
    training = dict(zip(("input", "p", "training"), node.args, strict=False)) | node.kwargs
    return node.target is functional.dropout and training.get("training", True) is False


def is_parameter(node: Any) -> bool:
    """Whether a value is an argument of the graph that holds float32 on the CPU."""
    if not isinstance(node, Node) or node.op != "placeholder":
        return False
    value = value_of(node)
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.device.type == "cpu"


def _pair(name: str, call: dict[str, Any]) -> dict[str, Node]:
    if not (is_parameter(call["weight"]) and is_parameter(call["bias"])):
        raise Different
    return {f"{name}.weight": call["weight"], f"{name}.bias": call["bias"]}
