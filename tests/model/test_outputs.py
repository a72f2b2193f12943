"""Output classes: they behave as transformers' do."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from transformers import modeling_outputs

from distilrt.model import outputs

NAMES = (
    "BaseModelOutput",
    "MaskedLMOutput",
    "SequenceClassifierOutput",
    "QuestionAnsweringModelOutput",
    "TokenClassifierOutput",
    "MultipleChoiceModelOutput",
)


@pytest.fixture(params=NAMES)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """The same fields, some of them None, in our class and in theirs."""
    theirs = getattr(modeling_outputs, request.param)
    fields = dict.fromkeys(theirs.__dataclass_fields__)
    kept = [name for name in fields if name not in ("loss", "hidden_states")]
    fields |= {name: torch.full((2,), float(i)) for i, name in enumerate(kept)}
    return getattr(outputs, request.param)(**fields), theirs(**fields)


def test_same_fields_in_the_same_order(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    assert ours._fields == tuple(theirs.__dataclass_fields__)
    assert list(ours) == list(theirs)
    assert list(ours.keys()) == list(theirs.keys())
    assert len(ours) == len(theirs)
    for name in ours._fields:
        assert getattr(ours, name) is getattr(theirs, name)
        assert (name in ours) == (name in theirs)


def test_every_way_to_read_a_field(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    for index in (0, 1, -1):
        assert ours[index] is theirs[index]
    assert [id(x) for x in ours[:2]] == [id(x) for x in theirs[:2]]
    assert isinstance(ours[:2], tuple)
    assert [id(x) for x in ours.to_tuple()] == [id(x) for x in theirs.to_tuple()]
    assert {**ours}.keys() == dict(theirs.items()).keys()
    for key in ours:
        assert ours[key] is theirs[key]
    for output in (ours, theirs):
        with pytest.raises(KeyError):
            output["loss"]
        with pytest.raises(IndexError):
            output[9]
        with pytest.raises(AttributeError):
            _ = output.nothing


def test_setting_a_field_shows_everywhere(pair: tuple[Any, Any]) -> None:
    for output in pair:
        output.hidden_states = (1,)
        assert output["hidden_states"] == (1,)
        output["attentions"] = (2,)
        assert output.attentions == (2,)


def test_copies_and_pickles() -> None:
    output = outputs.MaskedLMOutput(logits=np.arange(3.0), hidden_states=(np.zeros(2),))
    for twin in (copy.copy(output), copy.deepcopy(output), pickle.loads(pickle.dumps(output))):
        assert type(twin) is outputs.MaskedLMOutput
        assert list(twin) == ["logits", "hidden_states"]
        assert np.array_equal(twin.logits, output.logits)
        assert twin.loss is None


def test_unknown_field() -> None:
    with pytest.raises(TypeError, match="no field 'pooler_output'; it has last_hidden_state, hidden"):
        outputs.BaseModelOutput(pooler_output=1)


def test_made_as_dicts_are() -> None:
    """tf.data and torch's pytrees rebuild a dict from its items."""
    expected = outputs.MaskedLMOutput(loss=1, logits=2)
    assert outputs.MaskedLMOutput(expected.items()) == expected
    assert outputs.MaskedLMOutput({"logits": 2}, loss=1) == expected
    assert list(outputs.MaskedLMOutput({"logits": 2}, loss=1)) == ["loss", "logits"]
    with pytest.raises(TypeError, match="no field 'pooler_output'"):
        outputs.MaskedLMOutput([("pooler_output", 1)])
