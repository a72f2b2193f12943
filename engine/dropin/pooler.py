"""BERT's pooler behind an accelerated encoder: what `BertModel` has and DistilBERT has not."""

from __future__ import annotations

from typing import Any

import torch

from distilrt.dropin import ops


def pooled(model: Any, kwargs: dict[str, Any], last_hidden_state: torch.Tensor) -> torch.Tensor:
    """BERT's pooler on position 0, which is computed even where it is masked."""
    first = last_hidden_state[:, 0]
    if kwargs.get("attention_mask") is not None:
        function = _first_operator if torch.compiler.is_compiling() else _first
        inputs: list[Any] = [
            kwargs.get(name) for name in ("input_ids", "attention_mask", "inputs_embeds", "position_ids")
        ]
        first = function(model._number, first, *inputs)
    with torch.no_grad():
        pooled: torch.Tensor = model.pooler(first[:, None].to(model._dtype))
    return pooled


def _first(
    number: int,
    first: torch.Tensor,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor,
    inputs_embeds: torch.Tensor | None,
    position_ids: torch.Tensor | None,
) -> torch.Tensor:
    """`first`, `[batch_size, hidden_size]`, or where one of them is masked and hence zero, what it would be."""
    if bool(attention_mask[:, 0].all()):
        return first
    engine = ops.found(number).engine
    found: torch.Tensor = engine.first_hidden_state(input_ids, attention_mask, inputs_embeds, position_ids)
    return found


@torch.library.custom_op("distilrt::first_hidden_state", mutates_args=())
def _first_operator(
    number: int,
    first: torch.Tensor,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor,
    inputs_embeds: torch.Tensor | None,
    position_ids: torch.Tensor | None,
) -> torch.Tensor:
    # An operator may not return its argument.
    return _first(number, first, input_ids, attention_mask, inputs_embeds, position_ids).clone()


@_first_operator.register_fake
def _(number: int, first: torch.Tensor, *inputs: Any) -> torch.Tensor:
    return torch.empty_like(first)
