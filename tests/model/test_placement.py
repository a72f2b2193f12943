"""What torch's modules are asked and told about their place, and copies of models in this process and others."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distilrt import Engine, pipeline
from distilrt.checkpoint import packed
from distilrt.checkpoint.weights import random_weights
from distilrt.errors import CheckpointError, InvalidInput
from distilrt.model import models
from distilrt.model.placement import DeviceName, DtypeName
from tests.model.model_calls import IDS, each_architecture, inputs_of, ours_of

CLASSIFIER = "DistilBertForSequenceClassification"


def test_names_equal_torchs() -> None:
    for name in ("float32", "bfloat16", "float16", "float64", "int8"):
        dtype = DtypeName(name)
        assert dtype == name
        assert dtype == getattr(torch, name)
        assert getattr(torch, name) == dtype
        assert dtype != torch.int32
        assert hash(dtype) == hash(name)
    device = DeviceName("cuda:1")
    assert device == "cuda:1"
    assert device == torch.device("cuda:1")
    assert torch.device("cuda:1") == device
    assert device != torch.device("cuda:0")
    assert (device.type, device.index) == ("cuda", 1)
    assert (DeviceName("cpu").type, DeviceName("cpu").index) == ("cpu", None)
    assert torch.zeros(1).to(DeviceName("cpu")).device == DeviceName("cpu")


def test_what_changes_nothing_returns_the_model(tiny: Any, backend: str) -> None:
    model = models.DistilBertModel(tiny(), backend=backend)
    for same in (
        model.cpu(), model.float(), model.eval(), model.train(False), model.requires_grad_(False), model.to("cpu"),
        model.to(torch.float32), model.to("cpu", torch.float32), model.to(device="cpu", dtype=torch.float32),
        model.to(torch.device("cpu"), non_blocking=True), model.to(device=None),
    ):  # fmt: skip
        assert same is model
    assert not model.training
    assert model.dtype == torch.float32
    assert model.device == torch.device("cpu")
    for move in (model.half, model.bfloat16, model.cuda, lambda: model.cuda(1), lambda: model.to("cpu", torch.half)):
        with pytest.raises(ValueError, match=r"on 'cpu' in float32 and can't be moved .*; load it anew"):
            move()
    with pytest.raises(TypeError, match="train with transformers"):
        model.requires_grad_()


@each_architecture
def test_the_encoder_and_the_embeddings_of_a_model(
    architecture: str, tiny: Any, reference_model: Any, backend: str
) -> None:
    theirs, weights = reference_model(tiny(), architecture)
    ours = ours_of(architecture, tiny(), weights, backend=backend)
    for embeddings_only in (False, True):
        expected = theirs.num_parameters(only_trainable=True, exclude_embeddings=embeddings_only)
        assert ours.num_parameters(True, exclude_embeddings=embeddings_only) == expected
    table, reference = ours.get_input_embeddings(), theirs.get_input_embeddings()
    for name in ("num_embeddings", "embedding_dim", "padding_idx"):
        assert getattr(table, name) == getattr(reference, name)
    ids = torch.tensor(IDS)
    assert torch.equal(table(ids), reference(ids))
    assert np.array_equal(table.weight, reference.weight.detach().numpy())
    for wrong in ([-1], [101], [0.5]):
        with pytest.raises(InvalidInput, match="input_ids must be integers of 0 to 100"):
            table(wrong)
    if architecture != "DistilBertModel":
        encoder = ours.distilbert
        assert encoder.backend is ours.backend
        assert encoder.state_dict().keys() == theirs.distilbert.state_dict().keys()
        with torch.no_grad():
            torch.testing.assert_close(encoder(ids)[0], theirs.distilbert(ids)[0], atol=1e-4, rtol=1e-4)


@each_architecture
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_copies_answer_alike(architecture: str, dtype: str, tiny: Any) -> None:
    weights = dict(random_weights(tiny(), architecture))
    model = getattr(models, architecture)(tiny(), weights, backend="cpu", dtype=dtype, num_threads=2)
    inputs = inputs_of(architecture, tiny(), "right")
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.deepcopy({"a": model})["a"]):
        assert again is not model
        assert again.config == model.config
        assert again.backend.describe() == model.backend.describe()
        found, expected = again(**inputs), model(**inputs)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert copy.deepcopy(model).backend is model.backend


def test_a_model_of_files_needs_them_no_more(tiny: Any, tmp_path: Path) -> None:
    """As does one of a packed folder."""
    cls = models.DistilBertForSequenceClassification
    cls(tiny(), backend="cpu").save_pretrained(tmp_path / "float")
    whole = cls.from_pretrained(tmp_path / "float", backend="cpu", num_threads=1)
    int8 = cls.from_pretrained(tmp_path / "float", backend="cpu", dtype="int8")
    packed.write(tmp_path / "packed", packed.of(int8))
    for model in (whole, cls.from_pretrained(tmp_path / "packed", num_threads=1)):
        again = pickle.loads(pickle.dumps(model))
        assert np.array_equal(again(IDS).logits, model(IDS).logits)
    with pytest.raises(CheckpointError, match=r"packed for .* in no other form"):
        again.state_dict()
    assert pickle.loads(pickle.dumps(whole)).state_dict().keys() == whole.state_dict().keys()


def _answer(pipe: Any) -> Any:
    return pipe(["a b", "c"])


def test_pipelines_go_to_other_processes_and_engines_do_not(folder_of: Callable[..., Path]) -> None:
    folder = folder_of(CLASSIFIER)
    pipe = pipeline("text-classification", str(folder), num_threads=2)
    expected = pipe(["a b", "c"])
    assert copy.deepcopy(pipe)(["a b", "c"]) == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_answer, (pipe,)) == expected
    with Engine(str(folder)) as engine:
        for copies in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match=r"an Engine .*each process"):
                copies(engine)


@each_architecture
def test_outputs_are_copied(architecture: str, tiny: Any) -> None:
    model = ours_of(architecture, tiny(), backend="cpu")
    output = model(**inputs_of(architecture, tiny(), "right"), output_hidden_states=True)
    for again in (pickle.loads(pickle.dumps(output)), copy.deepcopy(output), copy.copy(output)):
        assert type(again) is type(output)
        assert again.keys() == output.keys()
        assert np.array_equal(again[0], output[0])
