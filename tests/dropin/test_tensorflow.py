"""The TensorFlow classes against answers of transformers 4.57's, and each way of calling them against the others."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import distilrt
from distilrt.errors import InvalidInput, TooLong
from distilrt.model import models, outputs
from distilrt.model.config import DistilBertConfig

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow: make test-tensorflow")

Array = npt.NDArray[Any]
GOLDEN = Path(__file__).parents[1] / "golden" / "tensorflow"
NAMES = ["TFDistilBertModel", "TFDistilBertForMaskedLM", "TFDistilBertForSequenceClassification",
         "TFDistilBertForQuestionAnswering"]  # fmt: skip
LABELS = ("labels", "start_positions", "end_positions")
# Of the golden answers: float32 on both sides, sums over 48 numbers at most, values of size 5 at most.
BOUND = 2e-5


def golden(name: str) -> tuple[Any, dict[str, Array]]:
    """A model and its answers."""
    with np.load(GOLDEN / name / "answers.npz") as answers:
        return getattr(distilrt, name).from_pretrained(GOLDEN / name), dict(answers)


def inputs(answers: dict[str, Array], labels: bool = False) -> dict[str, Array]:
    return {name: answers[name] for name in ("input_ids", "attention_mask", *(LABELS if labels else ()))
            if name in answers}  # fmt: skip


def random_model(name: str, tiny: Callable[..., DistilBertConfig], **changes: Any) -> tuple[Any, Any]:
    """A model and the one without TensorFlow that has the same weights."""
    config = tiny(num_labels=3, **changes)
    plain = getattr(models, name.removeprefix("TF"))(config)
    return getattr(distilrt, name)(config, plain.weights), plain


def leaves(output: Any) -> dict[str, Array]:
    """Every tensor of an output, as an array."""
    found = {}
    for name, value in output.items():
        items = {f"{name}.{i}": item for i, item in enumerate(value)} if isinstance(value, tuple) else {name: value}
        for key, item in items.items():
            assert tf.is_tensor(item)
            found[key] = item.numpy()
    return found


def assert_same(found: Any, expected: Any) -> None:
    found, expected = leaves(found), leaves(expected)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_answers_of_the_reference(name: str) -> None:
    model, answers = golden(name)
    output = model(inputs(answers, labels=True), output_hidden_states=True, output_attentions=True)
    found = leaves(output)
    fields = [key for key in answers if key not in (*inputs(answers, labels=True), "inputs_embeds")]
    assert sorted(found) == sorted(key for key in fields if not key.startswith("embeds."))
    mask = answers["attention_mask"].astype(bool)
    for key, array in found.items():
        assert array.dtype == np.float32
        assert array.shape == answers[key].shape
        if key.startswith("attentions"):
            keep = mask[:, None, :, None] & mask[:, None, None, :] & np.ones((1, 2, 1, 1), bool)
        elif array.shape[:2] == mask.shape:
            keep = mask
        else:
            keep = np.ones(array.shape, bool)
        np.testing.assert_allclose(array[keep], answers[key][keep], atol=BOUND, rtol=0, err_msg=key)
        assert not array[~keep].any()
    positional = model(None, answers["attention_mask"], None, answers["inputs_embeds"])
    for key, array in leaves(positional).items():
        expected = answers[f"embeds.{key}"]
        keep = mask if array.shape[:2] == mask.shape else np.ones(array.shape, bool)
        np.testing.assert_allclose(array[keep], expected[keep], atol=BOUND, rtol=0, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_graph_and_dataset_equal_eager(name: str, tiny: Callable[..., DistilBertConfig]) -> None:
    random = np.random.default_rng()
    model, plain = random_model(name, tiny)
    ids = random.integers(0, 101, (4, 9))
    mask = random.integers(0, 2, (4, 9))
    mask[np.arange(4), random.integers(0, 9, 4)] = 1
    given = {"input_ids": ids, "attention_mask": mask}
    eager = model(given, output_hidden_states=True, output_attentions=True)
    expected = plain(ids, mask, output_hidden_states=True, output_attentions=True)
    assert type(eager) is type(expected)
    for key, value in leaves(eager).items():
        field, _, index = key.partition(".")
        np.testing.assert_array_equal(value, expected[field][int(index)] if index else expected[field])

    traced = tf.function(lambda batch: model(batch, output_hidden_states=True, output_attentions=True))
    assert_same(traced({key: tf.constant(value) for key, value in given.items()}), eager)
    unknown = {key: tf.TensorSpec([None, None], tf.int64) for key in given}
    any_shape = tf.function(model, input_signature=[unknown])
    structure = any_shape.get_concrete_function().structured_outputs
    for key, value in model(given).items():
        assert value.shape.is_compatible_with(structure[key].shape)
        assert structure[key].shape.rank == value.shape.rank
    for rows in (4, 1):
        part = {key: value[:rows] for key, value in given.items()}
        assert_same(any_shape({key: tf.constant(value) for key, value in part.items()}), model(part))

    data = tf.data.Dataset.from_tensor_slices(given).batch(2).map(model, num_parallel_calls=2)
    parts = list(data)
    assert all(isinstance(part, outputs.ModelOutput) for part in parts)
    for key, value in model(given).items():
        np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), value)
        assert data.element_spec[key].shape.is_compatible_with(parts[0][key].shape)


@pytest.mark.parametrize("name", NAMES)
def test_labels_in_a_graph(name: str) -> None:
    model, answers = golden(name)
    given = inputs(answers, labels=True)
    eager = model(given)
    graph = tf.function(model)({key: tf.constant(value) for key, value in given.items()})
    assert_same(graph, eager)
    if "loss" in answers:
        assert graph.loss.shape == eager.loss.shape == answers["loss"].shape


def test_every_way_to_give_inputs(tiny: Callable[..., DistilBertConfig]) -> None:
    model, _ = random_model(NAMES[0], tiny)
    ids, mask = np.array([[5, 6, 7], [8, 9, 1]]), np.array([[1, 1, 1], [1, 1, 0]])
    expected = model(input_ids=ids, attention_mask=mask)
    tensors = tf.constant(ids, tf.int32), tf.constant(mask, tf.float32)
    for output in (
        model(ids.tolist(), mask.tolist()),
        model(*tensors),
        model(list(tensors)),
        model((ids, mask)),
        model([ids, mask, None]),
        model({"input_ids": tensors[0], "attention_mask": mask}),
        model({"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}),
        model({"input_ids": ids}, attention_mask=mask),
        model.call(ids, mask),
    ):
        assert_same(output, expected)
    assert_same(model(ids.tolist()), model(ids))
    hidden = model(ids, mask, return_dict=False, output_hidden_states=True)
    assert isinstance(hidden, tuple)
    assert len(hidden) == 2
    assert len(hidden[1]) == 3
    np.testing.assert_array_equal(hidden[0], expected[0])


def test_config_decides_what_is_not_said(tiny: Callable[..., DistilBertConfig]) -> None:
    model, _ = random_model(NAMES[0], tiny, output_hidden_states=True, output_attentions=True, return_dict=False)
    assert [len(part) for part in model([[1, 2]])] == [1, 3, 2]
    assert list(model([[1, 2]], return_dict=True, output_attentions=False)) == ["last_hidden_state", "hidden_states"]


def test_one_label_is_a_number(tiny: Callable[..., DistilBertConfig]) -> None:
    model, _ = random_model(NAMES[2], lambda **changes: tiny(**changes | {"num_labels": 1}))
    labels = np.array([0.5, -2.0], np.float32)
    output = model([[1, 2], [3, 4]], labels=labels)
    np.testing.assert_allclose(output.loss, np.square(output.logits[:, 0] - labels), rtol=1e-6)
    np.testing.assert_array_equal(model([[1, 2], [3, 4]], labels=labels[:, None]).loss, output.loss)


def test_float64_backend(tiny: Callable[..., DistilBertConfig]) -> None:
    config = tiny()
    model = distilrt.TFDistilBertModel(config, backend="reference", dtype="float64")
    eager = model([[1, 2, 3]])
    assert eager.last_hidden_state.dtype == tf.float64
    assert_same(tf.function(model)(tf.constant([[1, 2, 3]])), eager)


def test_save_and_load(tmp_path: Path) -> None:
    model, answers = golden(NAMES[1])
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    again = distilrt.TFDistilBertForMaskedLM.from_pretrained(tmp_path)
    assert_same(again(inputs(answers)), model(inputs(answers)))
    assert again.num_parameters() == model.num_parameters()


Call = Callable[[Any], Any]
IDS = [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m(IDS, training=True), TypeError, "only infers: training must be False"),
        (lambda m: m({"input_ids": IDS, "training": True}), TypeError, "training must be False"),
        (lambda m: m(IDS, head_mask=np.ones((2, 3))), TypeError, "head_mask is not supported"),
        (lambda m: m(IDS, mask=1), TypeError, "unexpected keyword argument 'mask'"),
        (lambda m: m({"input_ids": IDS, "mask": 1}), TypeError, "unknown argument 'mask' .*known are input_ids, att"),
        (lambda m: m([np.array(IDS)] * 10), TypeError, "found 10 inputs; there are 9 arguments: input_ids, "),
        (lambda m: m(), InvalidInput, "exactly one of input_ids and inputs_embeds"),
        (lambda m: tf.function(lambda: m())(), InvalidInput, "exactly one of input_ids and inputs_embeds"),
        (lambda m: m(tf.ragged.constant(IDS)), TypeError, r"RaggedTensor; pad it with to_tensor\(\)"),
        (lambda m: m(np.array([1, 2])), InvalidInput, r"shape \[batch_size, seq_len\]"),
        (lambda m: m([[1, 500]]), InvalidInput, "input_ids holds 500"),
        (lambda m: m(np.zeros((1, 81), int)), TooLong, "positions 0 to 79"),
        (lambda m: m(IDS, labels=[0, 3]), InvalidInput, "a label is 3; labels must be 0 to 2"),
        (lambda m: m(IDS, labels=[0]), InvalidInput, r"labels must have shape \[2\]"),
        (lambda m: m(tf.keras.Input((None,), dtype="int32")), TypeError, "is a KerasTensor.*keras.layers.Lambda"),
        (lambda m: m.fit(IDS), AttributeError, "no 'fit': it is not a Keras model"),
        (lambda m: m.nonsense, AttributeError, "no attribute 'nonsense'"),
        (lambda m: m.train(), TypeError, "only infers"),
        (lambda m: tf.function(m)(tf.constant([[1, 500]])), tf.errors.InvalidArgumentError, "input_ids holds 500"),
    ],
)  # fmt: skip
def test_refusals(call: Call, error: type[Exception], message: str, tiny: Callable[..., DistilBertConfig]) -> None:
    model, _ = random_model(NAMES[2], tiny)
    with pytest.raises(error, match=message):
        call(model)


def test_part_of_a_keras_model(tiny: Callable[..., DistilBertConfig]) -> None:
    encoder, plain = random_model(NAMES[0], tiny)

    class Classifier(tf.keras.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.scores = encoder, tf.keras.layers.Dense(2)

        def call(self, ids: Any) -> Any:
            return self.scores(self.encoder(ids).last_hidden_state[:, 0])

    model = Classifier()
    model(tf.constant(IDS))
    kernel, bias = (weight.numpy() for weight in model.trainable_variables)
    expected = plain(np.array(IDS)).last_hidden_state[:, 0] @ kernel + bias
    for found in (model(tf.constant(IDS)).numpy(), model.predict(np.array(IDS), verbose=0)):
        np.testing.assert_allclose(found, expected, atol=BOUND)
    model.summary(print_fn=lambda *_, **__: None)
    model.compile("adam", "mse")
    model.fit(np.array(IDS), np.zeros((2, 2)), verbose=0)
    assert encoder.trainable_variables == encoder.variables == ()


def test_question_positions_outside_and_legacy_loss(tiny: Callable[..., DistilBertConfig]) -> None:
    model, _ = random_model(NAMES[3], lambda **changes: tiny(**changes | {"num_labels": 2}))
    with pytest.raises(InvalidInput, match="a label is 2; end_positions must be 0 to 1"):
        model(IDS, start_positions=[0, 1], end_positions=[0, 2])
    assert "loss" not in model(IDS, start_positions=[0, 1])
    legacy, _ = random_model(NAMES[1], tiny, extra={"tf_legacy_loss": True})
    with pytest.raises(TypeError, match="tf_legacy_loss"):
        legacy(IDS, labels=IDS)


def test_no_gradients(tiny: Callable[..., DistilBertConfig]) -> None:
    model, _ = random_model(NAMES[0], tiny)
    embeds = tf.Variable(tf.random.normal((1, 3, 48)))

    def derivative() -> Any:
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(model(inputs_embeds=embeds)[0])
        return tape.gradient(total, embeds)

    for function in (derivative, tf.function(derivative)):
        with pytest.raises(TypeError, match="no gradients; use transformers 4"):
            function()


def test_no_saved_model_but_checkpoints(tiny: Callable[..., DistilBertConfig], tmp_path: Path) -> None:
    model, _ = random_model(NAMES[0], tiny)
    holder = tf.Module()
    holder.model = model
    for thing in (model, holder):
        with pytest.raises(TypeError, match="can't be part of a SavedModel"):
            tf.saved_model.save(thing, str(tmp_path))
    holder.step = tf.Variable(3)
    tf.train.Checkpoint(holder=holder).write(str(tmp_path / "checkpoint"))


def test_outputs_pickle(tiny: Callable[..., DistilBertConfig]) -> None:
    model, _ = random_model(NAMES[0], tiny)
    output = model(IDS)
    again = pickle.loads(pickle.dumps(outputs.BaseModelOutput(last_hidden_state=output[0].numpy())))
    np.testing.assert_array_equal(again.last_hidden_state, output.last_hidden_state)
