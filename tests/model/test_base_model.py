"""What the model classes share: loading and saving, the defaults of a call, refusals of what only training needs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from distilrt import accelerate
from distilrt.checkpoint.weights import save_checkpoint
from distilrt.errors import BackendError, CheckpointError, InvalidInput
from distilrt.model import models
from distilrt.model.outputs import BaseModelOutput
from tests.model.model_calls import (
    IDS,
    as_torch,
    assert_outputs_near,
    each_architecture,
    inputs_of,
    ours_of,
)


@each_architecture
def test_many_threads_share_a_model(architecture: str, tiny: Any, backend: str) -> None:
    model = ours_of(architecture, tiny(), backend=backend)
    calls = [inputs_of(architecture, model.config, "holes", shape=(2, 1 + seed % 20), seed=seed) for seed in range(48)]
    expected = [model(**call)[0] for call in calls]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(2):
            for mine, wanted in zip(pool.map(lambda call: model(**call)[0], calls), expected, strict=True):
                assert np.array_equal(mine, wanted)


@each_architecture
def test_unknown_keywords(architecture: str, tiny: Any, backend: str, tmp_path: Path) -> None:
    cls = getattr(models, architecture)
    with pytest.raises(TypeError, match="'head_mask'"):
        cls(tiny(), backend=backend)(IDS, head_mask=None)
    with pytest.raises(TypeError, match="'heads_to_prune'"):
        cls.from_pretrained(tmp_path, heads_to_prune={})
    with pytest.raises(TypeError, match="'device'"):
        cls(tiny(), device="cpu")


def test_token_type_ids(tiny: Any, backend: str) -> None:
    segments, mask = np.array([[0, 0, 1], [0, 0, 0]]), np.array([[1, 1, 0], [1, 1, 1]])
    plain = models.DistilBertModel(tiny(), backend=backend)
    assert np.array_equal(plain(IDS, token_type_ids=segments)[0], plain(IDS)[0])
    bert = models.DistilBertModel(tiny(type_vocab_size=2), backend=backend)
    zeros = bert(IDS, token_type_ids=torch.zeros(2, 3, dtype=torch.long))[0]
    assert np.array_equal(zeros, bert(IDS)[0])
    assert not np.array_equal(bert(IDS, token_type_ids=segments)[0][0], zeros[0])
    assert np.array_equal(bert(IDS, token_type_ids=segments)[0][1], zeros[1])
    one = models.DistilBertModel(tiny(type_vocab_size=1), backend=backend)
    one(IDS, mask, token_type_ids=segments)
    with pytest.raises(InvalidInput, match=r"token_type_ids holds 1; token types of this model are 0 to 0"):
        one(IDS, token_type_ids=segments)
    for wrong in (2, -1):
        with pytest.raises(InvalidInput, match=rf"token_type_ids holds {wrong}; token types of this model are 0 to 1"):
            bert(IDS, token_type_ids=np.full((2, 3), wrong))
    with pytest.raises(InvalidInput, match="token_type_ids must hold integers, found dtype float64"):
        bert(IDS, token_type_ids=segments * 1.0)
    with pytest.raises(InvalidInput, match=r"token_type_ids must have shape \[2, 3\].*found \[3\]"):
        bert(IDS, token_type_ids=segments[0])


def test_config_sets_the_defaults_of_a_call(tiny: Any, backend: str) -> None:
    config = tiny(output_hidden_states=True, output_attentions=True, return_dict=False)
    model = models.DistilBertModel(config, backend=backend)
    last, states, probs = model(IDS)
    assert np.array_equal(states[-1], last)
    assert len(probs) == config.num_layers
    assert isinstance(model(IDS, return_dict=True), BaseModelOutput)
    assert len(model(IDS, output_hidden_states=False, output_attentions=False)) == 1
    classifier: Any = models.DistilBertForSequenceClassification(tiny(), backend=backend)
    loss, logits = classifier(IDS, labels=[0, 1], return_dict=False)
    assert loss.shape == ()
    assert logits.shape == (2, 2)


@each_architecture
def test_state_dict_and_num_parameters(architecture: str, tiny: Any, reference_model: Any, backend: str) -> None:
    for tied in (True, False):
        config = tiny(tie_word_embeddings=tied)
        theirs, weights = reference_model(config, architecture)
        ours = ours_of(architecture, config, weights, backend=backend)
        assert ours.num_parameters() == theirs.num_parameters()
        state = ours.state_dict()
        assert state.keys() == theirs.state_dict().keys()
        assert all(np.array_equal(array, theirs.state_dict()[name].numpy()) for name, array in state.items())


@each_architecture
def test_saved_and_loaded_again_by_both(
    architecture: str, tiny: Any, reference_model: Any, backend: str, tmp_path: Path
) -> None:
    config = tiny()
    theirs, _ = reference_model(config, architecture)
    theirs.save_pretrained(tmp_path / "theirs")
    cls = getattr(models, architecture)
    ours = cls.from_pretrained(tmp_path / "theirs", backend=backend)
    ours.save_pretrained(tmp_path / "ours")
    again = cls.from_pretrained(tmp_path / "ours", backend=backend)
    back = getattr(transformers, architecture).from_pretrained(tmp_path / "ours", attn_implementation="eager")
    inputs = inputs_of(architecture, config, "right")
    with torch.no_grad():
        expected = theirs(**as_torch(inputs))
        assert torch.equal(back(**as_torch(inputs))[0], expected[0])
    assert_outputs_near(ours(**inputs), expected, inputs["attention_mask"], 1e-5)
    assert np.array_equal(again(**inputs)[0], ours(**inputs)[0])
    assert again.config.architectures == (architecture,)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_weights_that_are_no_numbers(dtype: str, tiny: Any, tmp_path: Path) -> None:
    """However they are loaded; so they can't be packed, run or served either."""
    weights = dict(models.DistilBertModel(tiny(), backend="cpu").weights)
    name = "transformer.layer.1.ffn.lin2.weight"
    weights[name] = weights[name].copy()
    weights[name][-1, -1] = np.nan
    save_checkpoint(tmp_path, tiny(), weights, "DistilBertModel")
    for backend in ("cpu", "reference") if dtype == "float32" else ("cpu",):
        with pytest.raises(CheckpointError, match=rf"tensor {name} of .*model.safetensors holds NaN or infinity"):
            models.DistilBertModel.from_pretrained(tmp_path, backend=backend, dtype=dtype)
    live = transformers.DistilBertModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=rf"tensor {name} of this DistilBertModel holds NaN"):
        accelerate(live)


def test_inference_only(tiny: Any, backend: str) -> None:
    model = models.DistilBertModel(tiny(), backend=backend)
    assert model.eval() is model
    assert model.train(False) is model
    assert model.to("cpu") is model
    assert model.to(torch.device("cpu")) is model
    assert (model.device, model.dtype) == ("cpu", "float32")
    assert model.backend.name == backend
    with pytest.raises(TypeError, match="train with transformers"):
        model.train()
    with pytest.raises(TypeError, match="state_dict"):
        model.parameters()
    for target in ("cuda:7", torch.float16):
        with pytest.raises(ValueError, match=r"can't be moved.*; load it anew with backend=… and dtype=…"):
            model.to(target)


def test_backend_and_dtype_must_exist(tiny: Any) -> None:
    with pytest.raises(ValueError, match="backend must be one of auto, reference"):
        models.DistilBertModel(tiny(), backend="tpu")
    with pytest.raises(BackendError, match="float32 and float64"):
        models.DistilBertModel(tiny(), backend="reference", dtype="float8")
