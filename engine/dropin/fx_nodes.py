"""Reading nodes of a captured FX graph: what torch knows of their values without computing them.

Each node's `meta["example_value"]` is a fake tensor of its shape, dtype and device, or a number that may be a symbol.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true


class Different(Exception):
    """What was looked for is not there."""


def as_node(value: Any) -> Node:
    """The value, which must be a node.

    Raises:
        Different: it is a constant.
    """
    if not isinstance(value, Node):
        raise Different
    return value


def value_of(node: Node) -> Any:
    """A fake tensor or a number that stands for what a node computes.

    Raises:
        Different: torch noted none.
    """
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
    """Arguments of a call of the function `target` by name, None where not given.

    Raises:
        Different: the node calls something else.
    """
    if node.op != "call_function" or node.target is not target:
        raise Different
    return dict.fromkeys(names) | dict(zip(names, node.args, strict=False)) | node.kwargs
