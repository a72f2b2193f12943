"""The parameters of each architecture, and what a config names."""

from __future__ import annotations

import pytest

from distilrt.checkpoint.source import Source
from distilrt.checkpoint.weights import load_weights, random_weights
from distilrt.errors import CheckpointError
from distilrt.model.architecture import architecture_of, expected_shapes
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS
from tests.checkpoint.reference_folders import (
    BASE,
    MLM,
    config_for,
    reference,
)


@pytest.mark.parametrize("architecture", HEADS)
def test_shapes_are_the_references(architecture: str) -> None:
    state = reference(architecture).state_dict()
    shapes = {name.removeprefix("distilbert."): tuple(tensor.shape) for name, tensor in state.items()}
    assert expected_shapes(config_for(architecture), architecture) == shapes


def test_architectures() -> None:
    assert architecture_of(config_for(BASE)) is None
    assert architecture_of(config_for(BASE, architectures=())) is None
    for name in HEADS:
        assert architecture_of(config_for(name, architectures=[name])) == name
    assert architecture_of(config_for(BASE, architectures=("MyDistilBert", MLM))) == MLM
    assert (
        architecture_of(DistilBertConfig.from_dict({"model_type": "bert", "architectures": ["BertForMaskedLM"]})) == MLM
    )
    with pytest.raises(CheckpointError, match=r"config.architectures is MyDistilBert; known are DistilBertModel, "):
        architecture_of(config_for(BASE, architectures=["MyDistilBert"]))
    with pytest.raises(ValueError, match=r"architecture must be one of DistilBertModel, .*found 'BertModel'"):
        load_weights(Source("."), "BertModel", config_for(BASE))
    with pytest.raises(ValueError, match="architecture must be one of"):
        random_weights(config_for(BASE), "BertModel")
