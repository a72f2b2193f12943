"""engine/backends/padded.py: tensors are checked by shape as `pack_padded` checks arrays, and errors find their way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distilrt.backends.padded import Errors, check
from distilrt.batch import pack_padded
from distilrt.config import DistilBertConfig
from distilrt.errors import InvalidInput, TooLong

CONFIG = DistilBertConfig(dim=48, n_heads=3, n_layers=1, hidden_dim=48, vocab_size=101, max_position_embeddings=80)
IDS = np.ones((2, 3), np.int64)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, InvalidInput),
        ({"input_ids": IDS, "inputs_embeds": np.zeros((2, 3, 48))}, InvalidInput),
        ({"input_ids": IDS[0]}, InvalidInput),
        ({"input_ids": IDS * 1.0}, InvalidInput),
        ({"input_ids": IDS == 1}, InvalidInput),
        ({"input_ids": np.ones((2, 0), int)}, InvalidInput),
        ({"input_ids": np.ones((1, 81), int)}, TooLong),
        ({"input_ids": IDS, "attention_mask": IDS[:1]}, InvalidInput),
        ({"input_ids": IDS, "position_ids": IDS[:, :2]}, InvalidInput),
        ({"input_ids": IDS, "position_ids": IDS * 1.0}, InvalidInput),
        ({"inputs_embeds": np.zeros((2, 3, 47))}, InvalidInput),
        ({"inputs_embeds": np.zeros((2, 3, 48), int)}, InvalidInput),
    ],
)
def test_the_same_refusals_as_on_the_host(arguments: dict[str, Any], error: type[Exception]) -> None:
    names = ("input_ids", "attention_mask", "position_ids", "inputs_embeds")
    tensors = [torch.from_numpy(arguments[name]) if name in arguments else None for name in names]
    with pytest.raises(error) as on_host:
        pack_padded(CONFIG, *(arguments.get(name) for name in names))
    with pytest.raises(error) as there:
        check(CONFIG, tensors[0], tensors[1], tensors[2], tensors[3], None)
    assert str(there.value) == str(on_host.value)


def test_what_is_accepted_keeps_its_values() -> None:
    ids, segments = torch.arange(6).reshape(2, 3), torch.zeros(2, 3)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.uint8):
        padded = check(CONFIG, ids.to(dtype), None, torch.arange(3), None, segments)
        assert padded.shape == (2, 3)
        assert padded.ids is not None
        assert padded.positions is not None
        assert padded.ids.dtype in (torch.int32, torch.int64)
        assert torch.equal(padded.ids.long(), ids)
        assert torch.equal(padded.positions, torch.arange(3).expand(2, 3))
        part = padded.part(1, 9)
        assert part.shape == (1, 3)
        assert part.ids is not None
        assert torch.equal(part.ids.long(), ids[1:])
        assert padded.part(0, 9) is padded
    embeds = torch.randn(2, 3, 48, dtype=torch.float64, requires_grad=True)
    padded = check(CONFIG, None, torch.ones(2, 3)[:, ::1], None, embeds, None)
    assert padded.embeds is not None
    assert padded.embeds.shape == (6, 48)
    assert not padded.embeds.requires_grad
    part = padded.part(1, 2)
    assert part.embeds is not None
    assert torch.equal(part.embeds, padded.embeds[3:])
    with pytest.raises(InvalidInput, match=r"token_type_ids must have shape \[2, 3\]"):
        check(CONFIG, ids, None, None, None, segments[0])
    # A mask or positions may make more columns right than the model has positions; the device finds out.
    assert check(CONFIG, torch.zeros(1, 99, dtype=torch.long), torch.zeros(1, 99), None, None, None).shape == (1, 99)


def test_errors_are_raised_once_and_only_those_that_arrived() -> None:
    errors = Errors(torch.device("cpu"))
    errors.raise_known()
    first = errors.next_slot()
    first |= 1
    errors.raise_known()  # it has not been sent
    errors.send(first)
    second = errors.next_slot()
    second |= 4
    with pytest.raises(InvalidInput, match=r"an earlier batch.*not in the vocabulary"):
        errors.raise_known()
    errors.raise_known()
    assert second.item() == 4
    errors.send(second)
    with pytest.raises(InvalidInput, match="other than 0 and 1"):
        errors.raise_known()
    for _ in range(1000):  # around the ring
        slot = errors.next_slot()
        assert slot.item() == 0
        errors.send(slot)
    errors.raise_known()
