"""Which masks of attention are recognised as padding masks, whatever way they are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from distilrt.dropin.graph_nodes import Different, shape_of
from distilrt.dropin.padding_masks import padding_mask

Make = Callable[[torch.Tensor], torch.Tensor]


def source_of(make: Make, given: torch.Tensor, dynamic: bool) -> torch.fx.Node:
    """The node of the captured `make` that is the padding mask."""
    torch._dynamo.reset()
    found: list[Any] = []

    def keep(module: torch.fx.GraphModule, _: Any) -> Any:
        (made,) = next(iter(reversed(module.graph.nodes))).args[0]
        grid = next(shape_of(node) for node in module.graph.nodes if "given" in node.name)
        try:
            found.append(padding_mask(made, grid))
        except Different as error:
            found.append(error)
        return module.forward

    torch.compile(lambda given: make(given), backend=keep, fullgraph=True, dynamic=dynamic)(given)
    (answer,) = found
    if isinstance(answer, Different):
        raise answer
    return answer  # type: ignore[no-any-return]


GIVEN = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda given: given[:, None, None, :].bool(),
        lambda given: (1.0 - given[:, None, None, :].float()) * torch.finfo(torch.float32).min,
        lambda given: torch.where(given[:, None, None].bool(), 0.0, float("-inf")).expand(-1, 1, given.shape[1], -1),
        lambda given: given.flip(1)[:, None, None, :].bool(),  # of the flipped mask
        lambda given: (given.cumsum(1) > 1)[:, None, None, :],  # of the mask without its first 1
    ],
)
def test_padding(make: Make, dynamic: bool) -> None:
    assert len(shape_of(source_of(make, GIVEN, dynamic))) == 2


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda given: given[:, None, None, :].bool() & torch.ones(given.shape[1], given.shape[1]).tril().bool(),
        lambda given: given[:, None, :, None].bool().expand(-1, 1, -1, given.shape[1]),  # of queries, not of keys
        lambda given: (1.0 - given[:, None, None, :].float()) * -10,  # weakens keys and does not remove them
        lambda given: given[:, None, None, :].bool().logical_not(),
        lambda given: (1.0 - given[:, None, None, :].float()) * torch.finfo(torch.float32).min + 0.5,
        lambda given: given[:, None, None, :].bool().expand(-1, 2, -1, -1),  # of each head
        lambda given: torch.ones(4, 4, dtype=torch.bool)[None, None] & (given.sum() > 0),
        lambda given: given.bool(),
    ],
)
def test_others(make: Make, dynamic: bool) -> None:
    with pytest.raises(Different):
        source_of(make, GIVEN, dynamic)
