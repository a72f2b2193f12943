"""The public model classes against transformers' of the same name: numbers, losses, refusals."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from distilrt.errors import InvalidInput, TooLong
from distilrt.model import models
from distilrt.model.config import ACTIVATIONS
from tests.model.model_calls import (
    IDS,
    TOLERANCE,
    as_torch,
    assert_outputs_near,
    each_architecture,
    inputs_of,
    ours_of,
)


@pytest.mark.parametrize("pattern", ["full", "right", "left", "holes"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@each_architecture
def test_equals_transformers(
    architecture: str, attention: str, pattern: str, tiny: Any, reference_model: Any, backend_dtype: tuple[str, str]
) -> None:
    name, dtype = backend_dtype
    config = tiny(activation=ACTIVATIONS[len(architecture + pattern) % len(ACTIVATIONS)])
    theirs, weights = reference_model(config, architecture, dtype=dtype, attention=attention)
    ours = ours_of(architecture, config, weights, backend=name, dtype=dtype)
    inputs = inputs_of(architecture, config, pattern)
    states = {"output_hidden_states": True, "output_attentions": attention == "eager"}
    with torch.no_grad():
        expected = theirs(**as_torch(inputs), **states)
    found = ours(**inputs, **states)
    assert_outputs_near(found, expected, inputs["attention_mask"], TOLERANCE[dtype])
    plain = ours(**inputs)
    assert plain.hidden_states is None
    assert plain.attentions is None
    assert np.array_equal(plain[0], found[0])


@pytest.mark.parametrize("seed", range(6))
@each_architecture
def test_equals_transformers_in_other_shapes(
    architecture: str, seed: int, tiny: Any, reference_model: Any, backend_dtype: tuple[str, str]
) -> None:
    name, dtype = backend_dtype
    rng = np.random.default_rng(seed)
    heads, head_dim = [(1, 32), (2, 16), (4, 64), (3, 20), (8, 16), (1, 100)][seed]
    config = tiny(dim=heads * head_dim, n_heads=heads, n_layers=1 + seed % 4, hidden_dim=int(rng.integers(17, 300)),
                  activation=ACTIVATIONS[seed % 5], sinusoidal_pos_embds=seed % 2 == 1)  # fmt: skip
    theirs, weights = reference_model(config, architecture, dtype=dtype, attention="sdpa", seed=seed)
    ours = ours_of(architecture, config, weights, backend=name, dtype=dtype)
    seq_len = [1, 2, 70, 33, 17, 64][seed]
    for pattern in ("full", "right"):
        inputs = inputs_of(architecture, config, pattern, shape=(6, seq_len), seed=seed)
        with torch.no_grad():
            expected = theirs(**as_torch(inputs))
        assert_outputs_near(ours(**inputs), expected, inputs["attention_mask"], TOLERANCE[dtype])


@each_architecture
def test_position_ids_and_inputs_embeds(
    architecture: str, tiny: Any, reference_model: Any, backend_dtype: tuple[str, str], rng: np.random.Generator
) -> None:
    name, dtype = backend_dtype
    config = tiny()
    theirs, weights = reference_model(config, architecture, dtype=dtype)
    ours = ours_of(architecture, config, weights, backend=name, dtype=dtype)
    inputs = inputs_of(architecture, config, "left")
    ids = inputs.pop("input_ids")
    embeds = {"inputs_embeds": rng.normal(size=(*ids.shape, config.hidden_size)).astype(np.float32)}
    for given in ({"input_ids": ids}, embeds):
        for shape in ((4, 13), (1, 13), (13,)):
            call = inputs | given | {"position_ids": rng.integers(0, 80, shape)}
            with torch.no_grad():
                expected = theirs(**as_torch(call, dtype))
            assert_outputs_near(ours(**call), expected, inputs["attention_mask"], TOLERANCE[dtype])


LABELS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("SequenceClassification", {"num_labels": 1}, {"labels": np.array([0.5, -1.0, 2.0, 0.0], np.float32)}),
    ("SequenceClassification", {"num_labels": 1}, {"labels": np.array([[0.5], [-1.0], [2.0], [0.0]], np.float32)}),
    ("SequenceClassification", {"num_labels": 3}, {"labels": np.array([2, 0, 1, -100])}),
    ("SequenceClassification", {"num_labels": 3}, {"labels": np.full(4, -100)}),
    ("SequenceClassification", {"num_labels": 3}, {"labels": np.eye(4, 3, dtype=np.float32)}),
    ("SequenceClassification", {"num_labels": 3, "problem_type": "regression"}, {"labels": np.ones((4, 3), "f4")}),
    ("QuestionAnswering", {}, {"start_positions": np.array([0, 3, 2, 13]), "end_positions": np.array([1, -4, 99, 12])}),
    ("QuestionAnswering", {}, {"start_positions": np.array([[0], [3], [2], [1]]), "end_positions": np.full((4, 1), 4)}),
    ("QuestionAnswering", {}, {"start_positions": np.array([13, 13, 13, 13]), "end_positions": np.arange(4)}),
    ("QuestionAnswering", {}, {"start_positions": np.arange(4)}),
    ("MultipleChoice", {}, {"labels": np.array([1, 0])}),
]  # fmt: skip


@pytest.mark.parametrize("pattern", ["full", "right", "left", "holes"])
@pytest.mark.parametrize(("task", "changes", "labels"), LABELS)
def test_loss(
    task: str, changes: dict[str, Any], labels: Any, pattern: str, tiny: Any, reference_model: Any,
    backend_dtype: tuple[str, str],
) -> None:  # fmt: skip
    name, dtype = backend_dtype
    architecture = f"DistilBertFor{task}"
    config = tiny(**changes)
    theirs, weights = reference_model(config, architecture, dtype=dtype)
    ours = ours_of(architecture, config, weights, backend=name, dtype=dtype)
    call = inputs_of(architecture, config, pattern) | labels
    with torch.no_grad():
        expected = theirs(**as_torch(call, dtype))
    found = ours(**call, output_hidden_states=True)
    assert_outputs_near(ours(**call), expected, call["attention_mask"], TOLERANCE[dtype])
    assert np.array_equal(found[1], ours(**call)[1])
    if found.loss is not None:
        assert found.loss.dtype == dtype
    for state in found.hidden_states:
        assert not state[call["attention_mask"].reshape(-1, 13) == 0].any()


@pytest.mark.parametrize("pattern", ["full", "right", "holes"])
@pytest.mark.parametrize("task", ["MaskedLM", "TokenClassification"])
def test_token_level_loss(
    task: str, pattern: str, tiny: Any, reference_model: Any, backend_dtype: tuple[str, str]
) -> None:
    name, dtype = backend_dtype
    architecture = f"DistilBertFor{task}"
    config = tiny(num_labels=5)
    theirs, weights = reference_model(config, architecture, dtype=dtype)
    ours = ours_of(architecture, config, weights, backend=name, dtype=dtype)
    call = inputs_of(architecture, config, pattern)
    labels = np.where(call["attention_mask"] == 1, call["input_ids"] % 5, -100)
    labels[:, ::3] = -100
    for given in (labels, call["input_ids"] % 5):  # the second has labels at masked positions, which count too
        with torch.no_grad():
            expected = theirs(**as_torch(call | {"labels": given}))
        assert_outputs_near(ours(**call, labels=given), expected, call["attention_mask"], TOLERANCE[dtype])


@each_architecture
@pytest.mark.parametrize("heads", [3, 6, 16, 48])
def test_narrow_heads(
    architecture: str, heads: int, tiny: Any, reference_model: Any, backend_dtype: tuple[str, str]
) -> None:
    name, dtype = backend_dtype
    config = tiny(n_heads=heads)
    theirs, weights = reference_model(config, architecture, dtype=dtype)
    inputs = inputs_of(architecture, config, "holes")
    with torch.no_grad():
        expected = theirs(**as_torch(inputs))
    ours = ours_of(architecture, config, weights, backend=name, dtype=dtype)
    assert_outputs_near(ours(**inputs), expected, inputs["attention_mask"], TOLERANCE[dtype])


@each_architecture
def test_rows_of_the_mask_without_a_one(
    architecture: str, tiny: Any, reference_model: Any, backend_dtype: tuple[str, str]
) -> None:
    """As with the reference's default, sdpa: their attention is zero, and only heads of the first position show it."""
    name, dtype = backend_dtype
    theirs, weights = reference_model(tiny(), architecture, dtype=dtype, attention="sdpa")
    ours = ours_of(architecture, tiny(), weights, backend=name, dtype=dtype)
    inputs = inputs_of(architecture, tiny(), "left")
    for masked in (inputs["attention_mask"] * 0, inputs["attention_mask"].copy()):
        masked.reshape(-1, masked.shape[-1])[1] = 0
        inputs["attention_mask"] = masked
        with torch.no_grad():
            expected = theirs(**as_torch(inputs))
        assert_outputs_near(ours(**inputs), expected, masked, TOLERANCE[dtype])


def test_config_of_transformers() -> None:
    config = transformers.DistilBertConfig(dim=48, n_heads=3, n_layers=1, hidden_dim=64, num_labels=3)  # type: ignore[call-arg]
    model = models.DistilBertForSequenceClassification(config)
    assert (model.config.head_dim, model.config.num_layers, model.config.num_labels) == (16, 1, 3)
    assert model([[1, 2, 3]]).logits.shape == (1, 3)


@each_architecture
def test_same_positional_arguments_as_transformers(architecture: str) -> None:
    theirs = list(inspect.signature(getattr(transformers, architecture).forward).parameters)[1:-1]
    parameters = inspect.signature(getattr(models, architecture).forward).parameters.values()
    ours = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    assert ours == theirs
    cls = getattr(models, architecture)
    assert cls.__call__ is cls.forward


@each_architecture
def test_results_do_not_depend_on_batch_mates(architecture: str, tiny: Any, reference_model: Any, backend: str) -> None:
    config = tiny()
    _, weights = reference_model(config, architecture)
    model = ours_of(architecture, config, weights, backend=backend)
    for pattern in ("full", "right", "left", "holes"):
        inputs = inputs_of(architecture, config, pattern, shape=(6, 13))
        together = model(**inputs, output_hidden_states=True, output_attentions=True)
        for i in range(len(inputs["input_ids"])):
            alone = model(**{name: value[i : i + 1] for name, value in inputs.items()}, output_hidden_states=True,
                          output_attentions=True)  # fmt: skip
            for name, value in alone.items():
                group = together[name]
                for mine, all_of in zip(value, group, strict=True) if isinstance(value, tuple) else [(value, group)]:
                    assert np.array_equal(mine, all_of[i * len(mine) : (i + 1) * len(mine)]), (pattern, name)


@each_architecture
def test_empty_batch(architecture: str, tiny: Any, backend: str) -> None:
    config = tiny(num_labels=2)
    model = ours_of(architecture, config, backend=backend)
    shape = (0, 3, 9) if architecture == "DistilBertForMultipleChoice" else (0, 9)
    out = model(np.zeros(shape, np.int64), np.zeros(shape), output_hidden_states=True, output_attentions=True)
    expected = {
        "DistilBertModel": (0, 9, 48),
        "DistilBertForMaskedLM": (0, 9, 101),
        "DistilBertForSequenceClassification": (0, 2),
        "DistilBertForQuestionAnswering": (0, 9),
        "DistilBertForTokenClassification": (0, 9, 2),
        "DistilBertForMultipleChoice": (0, 3),
    }[architecture]
    assert out[0].shape == expected
    assert [state.shape for state in out.hidden_states] == [(0, 9, 48)] * 3
    assert [probs.shape for probs in out.attentions] == [(0, 3, 9, 9)] * 2
    assert model(torch.zeros(shape, dtype=torch.long))[0].shape == expected


@each_architecture
def test_nan_stays_in_its_sequence(architecture: str, tiny: Any, backend: str, rng: np.random.Generator) -> None:
    config = tiny()
    model = ours_of(architecture, config, backend=backend)
    shape = (2, 1, 5, 48) if architecture == "DistilBertForMultipleChoice" else (2, 5, 48)
    embeds = rng.normal(size=shape).astype(np.float32)
    clean = model(inputs_embeds=embeds)[0]
    embeds[0, ..., 3, 7] = np.nan
    found = model(inputs_embeds=embeds)[0]
    assert np.isnan(found[0]).all()
    assert np.array_equal(found[1], clean[1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, InvalidInput, "exactly one of"),
        ({"input_ids": IDS, "inputs_embeds": np.zeros((2, 3, 48))}, InvalidInput, "exactly one of"),
        ({"input_ids": IDS * 101}, InvalidInput, "0 to 100"),
        ({"input_ids": -IDS}, InvalidInput, "holds -1"),
        ({"input_ids": IDS[0]}, InvalidInput, "shape"),
        ({"input_ids": IDS * 1.0}, InvalidInput, "integers"),
        ({"input_ids": torch.ones(2, 3)}, InvalidInput, "integers, found dtype float32"),
        ({"input_ids": np.ones((2, 0), int)}, InvalidInput, "seq_len is 0"),
        ({"input_ids": np.ones((1, 81), int)}, TooLong, "positions 0 to 79"),
        ({"input_ids": IDS, "attention_mask": IDS[:1]}, InvalidInput, "attention_mask must have shape"),
        ({"input_ids": IDS, "attention_mask": IDS * 3}, InvalidInput, "only 0 and 1"),
        ({"input_ids": IDS, "position_ids": IDS * 80}, TooLong, "position 80"),
        ({"inputs_embeds": np.zeros((2, 3, 47))}, InvalidInput, r"\[batch_size, seq_len, 48\]"),
    ],
)
def test_bad_inputs(arguments: dict[str, Any], error: type[Exception], message: str, tiny: Any, backend: str) -> None:
    model = models.DistilBertModel(tiny(), backend=backend)
    with pytest.raises(error, match=message):
        model(**arguments)


def test_bad_choices(tiny: Any, backend: str) -> None:
    model = models.DistilBertForMultipleChoice(tiny(), backend=backend)
    with pytest.raises(
        InvalidInput, match=r"input_ids must have shape \[batch_size, num_choices, seq_len\], found \[2, 3\]"
    ):
        model(IDS)
    with pytest.raises(InvalidInput, match=r"attention_mask must have shape \[batch_size, num_choices, seq_len\]"):
        model(IDS[None], IDS)
    with pytest.raises(InvalidInput, match="seq_len, hidden_size"):
        model(inputs_embeds=np.zeros((2, 3, 48)))
    with pytest.raises(InvalidInput, match="labels must be 0 to 1"):
        model(IDS[None], labels=[2])
