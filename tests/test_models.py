"""The public model classes against transformers' of the same name: numbers, kinds of arrays, refusals."""

from __future__ import annotations

import inspect
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from distilrt import models
from distilrt.config import ACTIVATIONS
from distilrt.errors import BackendError, InvalidInput, TooLong
from distilrt.outputs import BaseModelOutput

TASKS = ("MaskedLM", "SequenceClassification", "QuestionAnswering", "TokenClassification", "MultipleChoice")
ARCHITECTURES = ("DistilBertModel", *(f"DistilBertFor{task}" for task in TASKS))
TOKEN_LEVEL = {"last_hidden_state": 3, "start_logits": 2, "end_logits": 2, "logits": 3}  # and their ranks
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def ours_of(architecture: str, *arguments: Any, **options: Any) -> Any:
    return getattr(models, architecture)(*arguments, **options)


def masks(batch_size: int, seq_len: int, pattern: str, seed: int = 0) -> np.ndarray:
    """Right padding, left padding, holes anywhere, or none."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, seq_len + 1, batch_size)[:, None]
    columns = np.arange(seq_len)
    mask = {
        "full": np.ones((batch_size, seq_len), bool),
        "right": columns < lengths,
        "left": columns >= seq_len - lengths,
        "holes": rng.random((batch_size, seq_len)) < 0.5,
    }[pattern]
    mask[:, -1] |= ~mask.any(axis=1)
    return mask.astype(np.int64)


def inputs_of(architecture: str, config: Any, pattern: str, *, shape: tuple[int, int] = (4, 13), seed: int = 0) -> Any:
    """NumPy keyword arguments of one call, with a choices axis where the class has one."""
    rng = np.random.default_rng(seed)
    inputs = {
        "input_ids": rng.integers(0, config.vocab_size, shape),
        "attention_mask": masks(*shape, pattern, seed),
    }
    if architecture == "DistilBertForMultipleChoice":
        inputs = {name: value.reshape(2, shape[0] // 2, shape[1]) for name, value in inputs.items()}
    return inputs


def as_torch(inputs: dict[str, Any], dtype: str = "float32") -> dict[str, Any]:
    tensors = {name: torch.from_numpy(np.asarray(value).copy()) for name, value in inputs.items()}
    return {k: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for k, v in tensors.items()}


def assert_near(ours: Any, theirs: Any, tolerance: float, mask: np.ndarray | None = None) -> None:
    """Compare where `mask` is 1, and find zeros where it is 0."""
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape
    if mask is not None:
        assert not ours[mask == 0].any()
        ours, theirs = ours[mask == 1], theirs[mask == 1]
    assert np.abs(ours - theirs).max(initial=0) <= tolerance * np.abs(theirs).max(initial=1e-30)


def assert_outputs_near(ours: Any, theirs: Any, mask: np.ndarray, tolerance: float) -> None:
    """Compare every field that theirs has."""
    assert list(ours) == [name for name, value in theirs.items() if value != ()]  # theirs is () where sdpa gives none
    mask = mask.reshape(-1, mask.shape[-1])
    for name, value in ours.items():
        if name == "hidden_states":
            for mine, other in zip(value, theirs[name], strict=True):
                assert_near(mine, other, tolerance, mask)
        elif name == "attentions":
            both = mask[:, :, None] & mask[:, None, :]
            for mine, other in zip(value, theirs[name], strict=True):
                assert_near(mine.transpose(0, 2, 3, 1), other.permute(0, 2, 3, 1), tolerance, both)
        elif name == "loss":
            assert float(value) == pytest.approx(theirs[name].item(), rel=max(tolerance, 1e-12), nan_ok=True)
        else:
            assert_near(value, theirs[name], tolerance, mask if TOKEN_LEVEL[name] == value.ndim else None)


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
    with torch.no_grad():
        expected = theirs(**as_torch(call | {"labels": labels}))
    assert_outputs_near(ours(**call, labels=labels), expected, call["attention_mask"], TOLERANCE[dtype])
    if pattern != "full":
        with pytest.raises(InvalidInput, match="set labels to -100"):
            ours(**call, labels=np.zeros_like(labels))


@each_architecture
def test_same_positional_arguments_as_transformers(architecture: str) -> None:
    theirs = list(inspect.signature(getattr(transformers, architecture).forward).parameters)[1:-1]
    parameters = inspect.signature(getattr(models, architecture).forward).parameters.values()
    ours = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    assert ours == theirs
    cls = getattr(models, architecture)
    assert cls.__call__ is cls.forward


@each_architecture
def test_torch_in_torch_out(architecture: str, tiny: Any, backend: str) -> None:
    config = tiny()
    model = ours_of(architecture, config, backend=backend)
    inputs = inputs_of(architecture, config, "left")
    labels = {"labels": np.array([0, 1])} if architecture == "DistilBertForMultipleChoice" else {}
    wanted = model(**inputs, **labels, output_hidden_states=True, output_attentions=True)
    found = model(**as_torch(inputs | labels), output_hidden_states=True, output_attentions=True)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        pairs = zip(found[name], value, strict=True) if isinstance(value, tuple) else [(found[name], value)]
        for mine, array in pairs:
            assert isinstance(mine, torch.Tensor)
            assert mine.dtype is torch.float32
            assert isinstance(array, np.ndarray | np.float32)
            assert np.array_equal(mine.numpy(), array)
    listed = model(**{name: value.tolist() for name, value in inputs.items()})
    assert isinstance(listed[0], np.ndarray)
    assert np.array_equal(listed[0], model(**inputs)[0])
    mixed = model(torch.from_numpy(inputs["input_ids"]), inputs["attention_mask"])
    assert isinstance(mixed[0], torch.Tensor)


def test_torch_inputs_embeds_of_every_float_dtype(tiny: Any, backend: str) -> None:
    model: Any = models.DistilBertModel(tiny(), backend=backend)
    embeds = torch.randn(2, 5, 48, dtype=torch.bfloat16)
    expected = model(inputs_embeds=embeds.float())
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        found = model(inputs_embeds=embeds.to(dtype).requires_grad_())
        assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
        assert not found.last_hidden_state.requires_grad


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = """
import sys
import numpy as np
from distilrt import DistilBertConfig, DistilBertForSequenceClassification
config = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=40, vocab_size=10)
out = DistilBertForSequenceClassification(config, backend="reference")([[1, 2]], labels=[1], output_attentions=True)
assert out.logits.shape == (1, 2)
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


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


@each_architecture
def test_inputs_stay_as_they_were(architecture: str, tiny: Any, backend: str) -> None:
    model = ours_of(architecture, tiny(), backend=backend)
    inputs = inputs_of(architecture, model.config, "left")
    expected = model(**inputs)[0]
    strided = {name: np.repeat(value, 2, axis=-1)[..., ::2] for name, value in inputs.items()}
    narrow = {name: value.astype(np.int32) for name, value in inputs.items()}
    for given in (inputs, strided, narrow):
        before = {name: value.copy() for name, value in given.items()}
        for value in given.values():
            value.flags.writeable = False
        out = model(**given)[0]
        assert np.array_equal(out, expected)
        assert out.flags.writeable
        assert all(np.array_equal(value, before[name]) for name, value in given.items())


@each_architecture
def test_many_threads_share_a_model(architecture: str, tiny: Any, backend: str) -> None:
    model = ours_of(architecture, tiny(), backend=backend)
    calls = [inputs_of(architecture, model.config, "holes", shape=(2, 1 + seed % 20), seed=seed) for seed in range(48)]
    expected = [model(**call)[0] for call in calls]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(2):
            for mine, wanted in zip(pool.map(lambda call: model(**call)[0], calls), expected, strict=True):
                assert np.array_equal(mine, wanted)


IDS = np.ones((2, 3), np.int64)


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
        ({"input_ids": IDS, "attention_mask": IDS * 0}, InvalidInput, "row 0 is all zeros"),
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


@each_architecture
def test_unknown_keywords(architecture: str, tiny: Any, backend: str, tmp_path: Path) -> None:
    cls = getattr(models, architecture)
    with pytest.raises(TypeError, match="'head_mask'"):
        cls(tiny(), backend=backend)(IDS, head_mask=None)
    with pytest.raises(TypeError, match="'torch_dtype'"):
        cls.from_pretrained(tmp_path, torch_dtype="float32")
    with pytest.raises(TypeError, match="'device'"):
        cls(tiny(), device="cpu")


def test_token_type_ids(tiny: Any, backend: str) -> None:
    segments, mask = np.array([[0, 0, 1], [0, 0, 0]]), np.array([[1, 1, 0], [1, 1, 1]])
    plain = models.DistilBertModel(tiny(), backend=backend)
    assert np.array_equal(plain(IDS, token_type_ids=segments)[0], plain(IDS)[0])
    folded = models.DistilBertModel(tiny(folded_bert=True), backend=backend)
    folded(IDS, mask, token_type_ids=segments)
    folded(IDS, token_type_ids=torch.zeros(2, 3))
    with pytest.raises(InvalidInput, match=r"token_type_ids must be 0.*no other segment"):
        folded(IDS, token_type_ids=segments)
    with pytest.raises(InvalidInput, match=r"token_type_ids must have shape \[2, 3\].*found \[3\]"):
        folded(IDS, token_type_ids=segments[0])


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
        with pytest.raises(ValueError, match=r"can't be moved.*from_pretrained"):
            model.to(target)


def test_backend_and_dtype_must_exist(tiny: Any) -> None:
    with pytest.raises(ValueError, match="backend must be one of auto, reference"):
        models.DistilBertModel(tiny(), backend="tpu")
    with pytest.raises(BackendError, match="float32 and float64"):
        models.DistilBertModel(tiny(), backend="reference", dtype="float8")
