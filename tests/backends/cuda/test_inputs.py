"""inputs.py: tensors are checked by shape as `pack_padded` checks arrays, and errors find their way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distilrt.backends.cuda.inputs import Errors, check
from distilrt.batch import PaddedInputs, pack_padded
from distilrt.errors import InvalidInput, TooLong
from distilrt.model.config import DistilBertConfig

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
    with pytest.raises(error) as on_host:
        pack_padded(CONFIG, PaddedInputs(**arguments))
    with pytest.raises(error) as there:
        check(CONFIG, PaddedInputs(**{name: torch.from_numpy(array) for name, array in arguments.items()}))
    assert str(there.value) == str(on_host.value)


def test_what_is_accepted_keeps_its_values() -> None:
    ids, segments = torch.arange(6).reshape(2, 3), torch.zeros(2, 3)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.uint8):
        padded = check(
            CONFIG, PaddedInputs(input_ids=ids.to(dtype), position_ids=torch.arange(3), token_type_ids=segments)
        )
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
    padded = check(CONFIG, PaddedInputs(attention_mask=torch.ones(2, 3)[:, ::1], inputs_embeds=embeds))
    assert padded.embeds is not None
    assert padded.embeds.shape == (6, 48)
    assert not padded.embeds.requires_grad
    part = padded.part(1, 2)
    assert part.embeds is not None
    assert torch.equal(part.embeds, padded.embeds[3:])
    with pytest.raises(InvalidInput, match=r"token_type_ids must have shape \[2, 3\]"):
        check(CONFIG.replace(type_vocab_size=2), PaddedInputs(input_ids=ids, token_type_ids=segments[0]))
    # A mask or positions may make more columns right than the model has positions; the device finds out.
    long = PaddedInputs(input_ids=torch.zeros(1, 99, dtype=torch.long), attention_mask=torch.zeros(1, 99))
    assert check(CONFIG, long).shape == (1, 99)


def nothing() -> None:
    """There is no device to wait for."""


def test_errors_are_raised_once_and_only_those_that_arrived() -> None:
    errors = Errors(torch.device("cpu"))
    errors.raise_known()
    first = errors.next_word(nothing)
    first |= 1
    errors.raise_known()  # it has not been sent
    errors.send(first)
    second = errors._words[3, :1]
    second |= 4
    with pytest.raises(InvalidInput, match=r"an earlier batch.*not in the vocabulary"):
        errors.raise_known()
    errors.raise_known()
    assert second.item() == 4
    errors._host[3] = 4
    with pytest.raises(InvalidInput, match="other than 0 and 1"):
        errors.raise_known()
    for _ in range(1000):  # around the ring: words that were not 0 are cleared before their next use
        word = errors.next_word(nothing)
        assert word.item() == 0
        errors.send(word)
    errors.raise_known()


def test_news_of_several_calls_come_together() -> None:
    errors = Errors(torch.device("cpu"))
    for bit in (1, 4):
        word = errors.next_word(nothing)
        word |= bit
        errors._host[errors._next] = 0  # nothing has arrived while the next call begins
    errors._host[1:3] = 1, 4
    with pytest.raises(InvalidInput, match="not in the vocabulary; attention_mask holds something other"):
        errors.raise_known()


def test_a_device_a_whole_ring_behind_is_waited_for() -> None:
    """A word whose batch is still to run is neither lost nor given to another call; nor is one that was never sent."""
    errors = Errors(torch.device("cpu"))
    words = [errors.next_word(nothing) for _ in range(256)]  # and none of them done
    waits: list[int] = []

    def wait() -> None:  # the device catches up; one batch was wrong
        waits.append(1)
        if len(waits) > 1:
            return
        for number in range(1, 256):
            errors._host[number] = 0
        words[0].fill_(2)
        errors._host[1] = 2

    with pytest.raises(InvalidInput, match="position that this model does not have"):
        errors.next_word(wait)
    assert len(waits) == 1
    for _ in range(512):
        word = errors.next_word(wait)
        assert word.item() == 0
        errors.send(word)
    assert len(waits) == 2, "for the one word that was never sent"
