"""Finds the padding mask that an attention's mask is made of, in a captured FX graph.

Every version of transformers makes the one of the other in another way, so this is not read off the operations between
them but tried out: they run on random padding masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from distilrt.dropin.graph_nodes import Different, ancestors, value_of

_PROBES = 8  # masks to try: from a single 1 in each row to nothing but 1


def padding_mask(seen: Node, grid: Sequence[Any]) -> Node:
    """The node `[batch_size, seq_len]` of 0 and 1 of which `seen`, the mask that attention adds or selects by, is made.

    Args:
        seen: the mask as attention takes it.
        grid: the batch size and the sequence length, which may be symbols.

    Raises:
        Different: there is none, or attention sees something else than which keys are 1.
    """
    needed = ancestors(seen)
    for node in reversed(needed):
        value = value_of(node)
        if isinstance(value, torch.Tensor) and value.ndim == 2 and _selects_keys(needed, node, grid):
            return node
    raise Different


def _selects_keys(part: Sequence[Node], source: Node, grid: Sequence[Any]) -> bool:
    """Whether the last node of `part` lets every query see exactly the keys that are 1 in `source`, and those alone."""
    sizes: dict[Any, int] = {}  # symbol to a size that stands for it

    def size(value: Any) -> int:
        if isinstance(value, int):
            return value
        free = value.node.expr.free_symbols
        return int(value.node.expr.subs({symbol: sizes.setdefault(symbol, 2 + len(sizes)) for symbol in free}))

    batch_size, seq_len = map(size, grid)
    for dim, wanted in zip(value_of(source).shape, (batch_size, seq_len), strict=True):
        if isinstance(dim, torch.SymInt) and dim.node.expr.is_symbol:
            sizes.setdefault(dim.node.expr, wanted)  # the mask's own symbol; when it runs, the engine compares
    if [size(dim) for dim in value_of(source).shape] != [batch_size, seq_len]:
        return False
    numbers = {node: value_of(node) for node in part if node.op == "placeholder"}
    known = {node: size(value) for node, value in numbers.items() if isinstance(value, int | torch.SymInt)}
    random = torch.Generator().manual_seed(0)
    for probe in range(_PROBES):
        mask = torch.rand(batch_size, seq_len, generator=random) < probe / (_PROBES - 1)
        rows = torch.arange(batch_size)
        mask[rows, (rows + probe) % seq_len] = True
        keys = mask[:, None, None].expand(-1, 1, seq_len, -1)
        try:
            seen = _computed(part, known | {source: mask.to(value_of(source).dtype)})
            open_keys = (seen if seen.dtype == torch.bool else seen == 0).expand_as(keys)
        except Exception:  # whatever is computed there, it is no mask of this shape
            return False
        clear = seen.dtype == torch.bool or bool(((seen == 0) | (seen <= -1e30)).all())
        if seen.ndim != 4 or not clear or not torch.equal(open_keys, keys):
            return False
    return True


def _computed(part: Sequence[Node], values: dict[Node, Any]) -> Any:
    """What the last node computes, of the values alone that are given.

    Raises:
        KeyError: it needs more.
    """
    for node in part:
        if (
            node.op in ("call_function", "call_method")
            and node not in values
            and values.keys() >= {*node.all_input_nodes}
        ):
            arguments, named = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            function = node.target if node.op == "call_function" else getattr(arguments[0], str(node.target))
            values[node] = function(*arguments[node.op == "call_method" :], **named)  # type: ignore[operator]
    return values[part[-1]]
