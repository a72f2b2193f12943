"""Finds the padding mask that an attention's mask is made of, in a captured FX graph.

Every version of transformers makes the one of the other in another way, so this is not read off the operations between
them but tried out: they run on random padding masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from distilrt.dropin.fx_nodes import Different, value_of

_PROBES = 8  # masks to try: from a single 1 in each row to nothing but 1


def padding_mask(seen: Node, grid: Sequence[Any]) -> Node:
    """The node `[batch_size, seq_len]` of 0 and 1 of which `seen`, the mask that attention adds or selects by, is made.

    Raises:
        Different: there is none, or attention sees something else than which keys are 1.
    """
    needed = _ancestors(seen)
    for node in reversed(needed):
        value = value_of(node)
        if isinstance(value, torch.Tensor) and value.ndim == 2:
            between = _Between(node, seen, [other for other in needed if other is not node])
            if between.closed and between.selects_keys(grid):
                return node
    raise Different


class _Between:
    """The part of a graph from one node to another, by itself."""

    def __init__(self, source: Node, target: Node, part: Sequence[Node]) -> None:
        self._graph = torch.fx.Graph()
        copies: dict[Node, Node] = {source: self._graph.placeholder("mask")}
        self._sizes: list[Any] = []
        for node in part:
            if node.op == "placeholder" and isinstance(value_of(node), (int, torch.SymInt)):
                copies[node] = self._graph.placeholder(node.name)
                self._sizes.append(value_of(node))
            elif node.op in ("call_function", "call_method") and all(arg in copies for arg in node.all_input_nodes):
                copies[node] = self._graph.node_copy(node, copies.__getitem__)
        self.closed = target in copies  # nothing else goes in
        if self.closed:
            self._graph.output(copies[target])
            self._module = torch.fx.GraphModule({}, self._graph)
            self._shape, self._dtype = tuple(value_of(source).shape), value_of(source).dtype

    def selects_keys(self, grid: Sequence[Any]) -> bool:
        """Whether the result lets every query see exactly the keys that are 1, in random masks of the shape `grid`."""
        sizes: dict[Any, int] = {}  # symbol to a size that stands for it

        def size(value: Any) -> int:
            if isinstance(value, int):
                return value
            free = value.node.expr.free_symbols
            return int(value.node.expr.subs({symbol: sizes.setdefault(symbol, 2 + len(sizes)) for symbol in free}))

        batch_size, seq_len = (size(dim) for dim in grid)
        for dim, wanted in zip(self._shape, (batch_size, seq_len), strict=True):
            if isinstance(dim, torch.SymInt) and dim.node.expr.is_symbol:
                sizes.setdefault(dim.node.expr, wanted)  # the mask's own symbol; when it runs, the engine compares
        if [size(dim) for dim in self._shape] != [batch_size, seq_len]:
            return False
        others = [size(value) for value in self._sizes]
        random = torch.Generator().manual_seed(0)
        for probe in range(_PROBES):
            mask = torch.rand(batch_size, seq_len, generator=random) < probe / (_PROBES - 1)
            rows = torch.arange(batch_size)
            mask[rows, (rows + probe) % seq_len] = True
            keys = mask[:, None, None].expand(-1, 1, seq_len, -1)
            try:
                seen = self._module(mask.to(self._dtype), *others)
                open_keys = (seen if seen.dtype == torch.bool else seen == 0).expand_as(keys)
            except Exception:  # whatever is computed there, it is no mask of this shape
                return False
            clear = seen.dtype == torch.bool or bool(((seen == 0) | (seen <= -1e30)).all())
            if seen.ndim != 4 or not clear or not torch.equal(open_keys, keys):
                return False
        return True


def _ancestors(node: Node) -> list[Node]:
    """A node and all that it is computed from, in the graph's order."""
    found, todo = {node}, [node]
    while todo:
        new = set(todo.pop().all_input_nodes) - found
        found |= new
        todo += new
    return [other for other in node.graph.nodes if other in found]
