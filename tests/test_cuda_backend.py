"""engine/backends/cuda.py and device_encoder.py: the GPU backend's own launches, under Triton's interpreter.

Every kernel, buffer and branch is that of a GPU but for graphs, streams and pinned memory, which are left to
`benches/gpu_suite.py`. Shapes are tiny, for the interpreter takes milliseconds for each row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from distilrt import models, verification
from distilrt.backends import create, cuda, device_encoder
from distilrt.batch import pack
from distilrt.checkpoint import HEADS, random_weights, save
from distilrt.config import ACTIVATIONS, DistilBertConfig
from distilrt.errors import BackendError, InvalidInput
from distilrt.tasks import find
from distilrt.tasks.base import ALL, FIRST
from distilrt.tasks.runner import compute
from distilrt.weights import Weights

# Rows beyond the real ones are not defined, and the interpreter computes with whatever they hold.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def fresh() -> np.random.Generator:
    """Random numbers of a seed of its own, which pytest shows when the test fails."""
    seed = int(np.random.default_rng().integers(2**32))
    print("seed", seed)
    return np.random.default_rng(seed)


def config_of(**changes: Any) -> DistilBertConfig:
    shape = {"dim": 36, "n_heads": 2, "n_layers": 2, "hidden_dim": 50, "vocab_size": 61, "max_position_embeddings": 40}
    return DistilBertConfig(**{**shape, **changes})


def weights_of(config: DistilBertConfig, architecture: str, rng: np.random.Generator) -> dict[str, Any]:
    """Random weights of which every bias and gain matters."""
    return {
        name: array * np.float32(2) if array.ndim == 2 else array + rng.normal(0, 0.2, array.shape).astype(np.float32)
        for name, array in random_weights(config, architecture).items()
    }


def masked(rng: np.random.Generator, batch_size: int, seq_len: int) -> np.ndarray:
    """A mask with left padding, right padding and holes."""
    mask = (rng.random((batch_size, seq_len)) < 0.6).astype(np.int64)
    mask[0] = np.arange(seq_len) >= seq_len // 3
    mask[1] = np.arange(seq_len) < seq_len // 2
    mask[:, -2] |= ~mask.any(axis=1)
    return mask


def errors_of(actual: Any, exact: Any) -> dict[str, tuple[float, float]]:
    """Largest difference and size of each output."""
    found = {}
    for name, wanted in exact.items():
        pairs = zip(actual[name], wanted, strict=True) if name == "hidden_states" else [(actual[name], wanted)]
        pairs = [(np.asarray(a), np.asarray(e)) for a, e in pairs]
        assert all(a.shape == e.shape for a, e in pairs)
        found[name] = (max(np.abs(a - e).max() for a, e in pairs), max(np.abs(e).max() for _, e in pairs))
    return found


@pytest.mark.parametrize("architecture", HEADS)
def test_every_head_on_both_roads(architecture: str) -> None:
    """Packed on the host and packed on the device, against the reference in float64."""
    rng = fresh()
    config = config_of(activation=ACTIVATIONS[list(HEADS).index(architecture) % 5], num_labels=2)
    weights = weights_of(config, architecture, rng)
    model_class: Any = getattr(models, architecture)
    mask = masked(rng, 4, 6)
    ids = rng.integers(0, config.vocab_size, mask.shape)
    if architecture == "DistilBertForMultipleChoice":
        ids, mask = ids.reshape(2, 2, 6), mask.reshape(2, 2, 6)
    exact = model_class(config, weights, backend="reference", dtype="float64")(ids, mask, output_hidden_states=True)
    model = model_class(config, weights, backend="cuda")
    from_host = model(ids, mask, output_hidden_states=True)
    on_device = model(torch.from_numpy(ids), torch.from_numpy(mask), output_hidden_states=True)
    for out in (from_host, on_device):
        for name, (error, size) in errors_of(out, exact).items():
            assert error <= 1e-5 * size, name
        for states in out.hidden_states:
            assert not states[mask.reshape(4, -1) == 0].any()
    assert all(isinstance(value, torch.Tensor) and value.dtype == torch.float32 for value in on_device.hidden_states)
    plain = model(torch.from_numpy(ids), torch.from_numpy(mask))
    assert torch.equal(plain[0], on_device[0])  # whether or not the layers are returned
    np.testing.assert_array_equal(model(ids, mask)[0], from_host[0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("architecture", ["DistilBertForMaskedLM", "DistilBertForSequenceClassification"])
def test_half_dtypes_are_as_near_as_torchs(architecture: str, dtype: str) -> None:
    """Within twice the error of transformers in the same dtype, over all layers and the output."""
    rng = fresh()
    config = config_of(dim=64, num_labels=7)
    weights = weights_of(config, architecture, rng)
    ids = rng.integers(0, config.vocab_size, (3, 8))
    model_class: Any = getattr(models, architecture)
    exact = model_class(config, weights, backend="reference", dtype="float64")(ids, output_hidden_states=True)
    actual = model_class(config, weights, backend="cuda", dtype=dtype)(ids, output_hidden_states=True)
    theirs: Any = getattr(transformers, architecture)(transformers.DistilBertConfig(**config.to_dict())).eval()
    prefix = ("embeddings.", "transformer.")
    theirs.load_state_dict(
        {("distilbert." if n.startswith(prefix) else "") + n: torch.from_numpy(a) for n, a in weights.items()}
    )
    with torch.inference_mode():
        plain = theirs.to(getattr(torch, dtype))(torch.from_numpy(ids), output_hidden_states=True)
    for name, wanted in exact.items():
        triples = zip(actual[name], wanted, plain[name], strict=True) if name == "hidden_states" else [
            (actual[name], wanted, plain[name])]  # fmt: skip
        for ours, right, torchs in triples:
            error, allowed = (np.sqrt(np.mean((np.asarray(x) - right) ** 2)) for x in (ours, torchs.float().numpy()))
            # A few logits can be off by little by luck; a rounding of the largest of them cannot be beaten.
            floor = np.abs(right).max() * torch.finfo(getattr(torch, dtype)).eps if name == "logits" else 0
            assert error <= 2 * max(allowed, floor), name


def test_lengths_in_one_batch_and_no_stale_numbers() -> None:
    """Odd lengths beside each other; the workspace holds NaN before, and batch mates do not matter to the bit."""
    rng = fresh()
    config = config_of(n_layers=1, max_position_embeddings=140)
    weights = weights_of(config, "DistilBertModel", rng)
    first = rng.integers(0, 61, 65)
    batch = pack(config, [first, *(rng.integers(0, 61, n) for n in (1, 2, 63, 64))])
    exact = create("reference", config, weights, dtype="float64").forward(batch, all_layers=True)
    backend: Any = create("cuda", config, weights)
    backend._encoder.workspace.fill(255)
    every = backend.to_numpy(backend.forward(batch, all_layers=True))
    assert np.abs(every - exact).max() <= 1e-5 * np.abs(exact).max()
    backend._encoder.workspace.fill(255)
    others = pack(config, [rng.integers(0, 61, 127), first, rng.integers(0, 61, 3)])  # 195 tokens: the same bucket
    last = backend.to_numpy(backend.forward(others))
    np.testing.assert_array_equal(last[127:192], every[-1][:65])


def test_wanted_rows_are_the_same_to_the_bit() -> None:
    config = config_of()
    rng = fresh()
    backend: Any = create("cuda", config, weights_of(config, "DistilBertModel", rng))
    batch = pack(config, [rng.integers(0, 61, n) for n in (5, 1, 9)])
    every = backend.forward(batch)
    assert every.isfinite().all()
    for wanted in ([0, 5, 6], [1, 14], []):
        backend._encoder.workspace.fill(255)
        rows = np.array(wanted, np.int64)
        assert torch.equal(backend.forward(batch, wanted=rows), every[rows])
    for bad in ([3, 3], [5, 2], [-1], [15]):
        with pytest.raises(ValueError, match="wanted rows must rise and be 0 to 14"):
            backend.forward(batch, wanted=np.array(bad))


def test_longer_batches_run_in_parts() -> None:
    """With a ladder of 32 tokens: parts of whole sequences, on both roads, for all rows, some, and all layers."""
    config = config_of(n_layers=1, max_position_embeddings=20)
    rng = fresh()
    weights = weights_of(config, "DistilBertForSequenceClassification", rng)
    classifier: Any = models.DistilBertForSequenceClassification(config, weights, backend="cuda")
    encoder: Any = models.DistilBertModel(config, weights, backend="cuda")
    for model in (classifier, encoder):
        model.backend._encoder.buckets = model.backend._encoder.buckets[:2]
    mask = masked(rng, 4, 11)
    ids = rng.integers(0, 61, mask.shape)
    tensors = torch.from_numpy(ids), torch.from_numpy(mask)
    for model, states in ((classifier, False), (encoder, True)):
        made = type(model)(config, weights, backend="reference", dtype="float64")
        exact = made(ids, mask, output_hidden_states=states)
        for out in (model(ids, mask, output_hidden_states=states), model(*tensors, output_hidden_states=states)):
            for name, (error, size) in errors_of(out, exact).items():
                assert error <= 1e-5 * size, name
    # A sequence longer than the largest bucket once padded takes the road over the host.
    wide = torch.zeros(1, 40, dtype=torch.long)
    alone = torch.zeros_like(wide)
    alone[0, 3:9] = 1
    assert encoder.backend.run_padded(wide, alone, None, None) is None
    assert encoder(wide, alone).last_hidden_state.shape == (1, 40, 36)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_positions_and_embeddings(dtype: torch.dtype) -> None:
    config = config_of(n_layers=1)
    rng = fresh()
    weights = weights_of(config, "DistilBertModel", rng)
    model: Any = models.DistilBertModel(config, weights, backend="cuda")
    exact: Any = models.DistilBertModel(config, weights, backend="reference", dtype="float64")
    mask = masked(rng, 2, 7)
    embeds = torch.from_numpy(rng.normal(size=(2, 7, 36))).to(dtype).requires_grad_()
    for shape in ((2, 7), (1, 7), (7,)):
        positions = rng.integers(0, 40, shape)
        wanted = exact(None, mask, embeds.detach().float().numpy(), positions).last_hidden_state
        tensors = None, torch.from_numpy(mask), embeds, torch.from_numpy(positions)
        found = model(*tensors).last_hidden_state
        assert np.abs(found.numpy() - wanted).max() <= 1e-5 * np.abs(wanted).max()
        assert not found.requires_grad
        from_host = model(None, mask, embeds.detach().float().numpy(), positions).last_hidden_state
        assert np.abs(from_host - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_labels_and_attentions_take_the_road_over_the_host() -> None:
    config = config_of(n_layers=1)
    rng = fresh()
    weights = weights_of(config, "DistilBertForQuestionAnswering", rng)
    model: Any = models.DistilBertForQuestionAnswering(config, weights, backend="cuda")
    exact: Any = models.DistilBertForQuestionAnswering(config, weights, backend="reference", dtype="float64")
    mask = masked(rng, 3, 7)
    inputs = {"input_ids": rng.integers(0, 61, mask.shape), "attention_mask": mask,
              "start_positions": np.array([0, 3, 2]), "end_positions": np.array([1, 6, 4])}  # fmt: skip
    wanted = exact(**inputs, output_attentions=True)
    found = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}, output_attentions=True)
    assert list(found) == list(wanted)
    assert isinstance(found.start_logits, torch.Tensor)
    assert float(found.loss) == pytest.approx(float(wanted.loss), rel=1e-5)
    for ours, theirs in zip(found.attentions, wanted.attentions, strict=True):
        assert np.abs(ours.numpy() - theirs).max() <= 1e-5


def test_tasks_take_arrays_from_it() -> None:
    config = config_of(num_labels=3)
    rng = fresh()
    weights = weights_of(config, "DistilBertForSequenceClassification", rng)
    task = find("text-classification")
    outputs = []
    for backend in ("cuda", "cpu"):
        model: Any = models.DistilBertForSequenceClassification(config, weights, backend=backend)
        outputs.append(compute(model, task, [[1, 2, 3], [4, 5]], [FIRST, ALL]))
    for ours, theirs in zip(*outputs, strict=True):
        assert isinstance(ours, np.ndarray)
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": {(1, 2): 61}}, "input_ids holds an id that is not in the vocabulary"),
        ({"ids": {(0, 4): -1}}, "input_ids holds an id"),
        ({"positions": {(0, 4): 40}}, "position that this model does not have"),
        ({"positions": {(0, 4): -1}}, "position that this model does not have"),
        ({"mask": {(1, 0): 2}}, "something other than 0 and 1"),
        ({"mask": {1: 0}}, "all zeros"),
        ({"segments": {(1, 1): 1}}, "token_type_ids is not 0"),
    ],
)
def test_wrong_values_on_the_device(changes: dict[str, dict[Any, int]], message: str) -> None:
    """They give NaN and no fault, the next call says what was wrong, and the one after it is as if nothing happened."""
    config = config_of(n_layers=1, folded_bert=True)
    model: Any = models.DistilBertModel(config, backend="cuda")
    good = {
        "ids": torch.arange(10).reshape(2, 5), "mask": torch.ones(2, 5, dtype=torch.long),
        "positions": torch.arange(10).reshape(2, 5), "segments": torch.zeros(2, 5, dtype=torch.long),
    }  # fmt: skip

    def call(grids: dict[str, torch.Tensor]) -> torch.Tensor:
        out = model(grids["ids"], grids["mask"], None, grids["positions"], token_type_ids=grids["segments"])
        tensor: torch.Tensor = out.last_hidden_state
        return tensor

    expected = call(good)
    assert expected.isfinite().all()
    wrong = {name: grid.clone() for name, grid in good.items()}
    for name, cells in changes.items():
        for cell, value in cells.items():
            wrong[name][cell] = value
    assert call(wrong).isnan().all()
    with pytest.raises(InvalidInput, match=f"an earlier batch.*outputs are NaN.*{message}"):
        call(good)
    assert torch.equal(call(good), expected)
    assert call(wrong).isnan().all()
    with pytest.raises(InvalidInput, match=message):
        model.backend.synchronize()
    model.backend.synchronize()


def test_an_error_inside_a_forward_leaves_the_model_usable() -> None:
    config = config_of(n_layers=1)
    model: Any = models.DistilBertModel(config, backend="cuda")
    ids = torch.arange(10).reshape(2, 5)
    expected = model(ids).last_hidden_state

    def broken(rows: Any) -> Any:
        raise RuntimeError("a head's own")

    with pytest.raises(RuntimeError, match="a head's own"):
        model.backend.run_padded(ids, None, None, None, head=broken)
    assert torch.equal(model(ids).last_hidden_state, expected)


def test_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(n_layers=1)
    weights = random_weights(config, "DistilBertModel")
    assert create("cuda", config, weights).dtype == "float32"
    for dtype in ("float8", "int8", "float64"):
        with pytest.raises(BackendError, match=f"float32, float16, bfloat16.*found '{dtype}'"):
            create("cuda", config, weights, dtype=dtype)
    half = Weights({name: weights[name] for name in weights})
    for dtype, expected in (("float16", "float16"), ("bfloat16", "bfloat16"), ("float64", "float32")):
        half.dtype = dtype
        assert create("cuda", config, half).dtype == expected


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(max_position_embeddings=512, dim=96, hidden_dim=400)
    weights = random_weights(config, "DistilBertForMaskedLM")
    described: Any = create("cuda", config, weights).describe()
    assert described["bucket_tokens"][-1] == 132 * 128
    numbers = sum(array.size for name, array in weights.items() if name != "vocab_projector.weight")
    assert described["weight_bytes"] == 4 * numbers  # the projection's matrix is the embeddings'
    monkeypatch.setenv("DISTILRT_GPU_MEMORY", "4")
    less: Any = create("cuda", config, weights).describe()
    assert less["workspace_bytes"] <= 4 << 20 < described["workspace_bytes"]
    assert 512 <= less["bucket_tokens"][-1] < described["bucket_tokens"][-1]
    monkeypatch.setenv("DISTILRT_GPU_MEMORY", "1")
    with pytest.raises(BackendError, match=r"DISTILRT_GPU_MEMORY allows 1 MiB.*one sequence of 512 tokens takes"):
        create("cuda", config, weights)
    monkeypatch.setenv("DISTILRT_GPU_MEMORY", "lots")
    with pytest.raises(ValueError, match="DISTILRT_GPU_MEMORY must be an integer of at least 1, found 'lots'"):
        create("cuda", config, weights)
    monkeypatch.delenv("DISTILRT_GPU_MEMORY")

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate 1 TiB")

    monkeypatch.setattr(device_encoder, "Workspace", full)
    with pytest.raises(BackendError, match=r"too little free memory.*1 TiB.*DISTILRT_GPU_MEMORY"):
        create("cuda", config, weights)


def test_device_and_edges_of_models() -> None:
    config = config_of(n_layers=1)
    model: Any = models.DistilBertForTokenClassification(config, backend="cuda")
    assert (model.backend.name, model.device, model.dtype) == ("cuda", "cpu", "float32")
    model.backend.device = "cuda:1"  # what torch calls a second GPU
    assert model.to("cuda") is model.to("cuda:1") is model
    with pytest.raises(ValueError, match=r"'cuda:1'.*can't be moved to 'cuda:0'"):
        model.to("cuda:0")
    for empty in (np.zeros((0, 5), np.int64), torch.zeros((0, 5), dtype=torch.long)):
        out = model(empty, output_hidden_states=True)
        assert out.logits.shape == (0, 5, 2)
        assert [state.shape for state in out.hidden_states] == [(0, 5, 36)] * 2


def test_verify_in_half_precision(tmp_path: Path, sentence_encoder: Path) -> None:
    """The bound is that of transformers in the same dtype; that of float32 it could not hold."""
    import shutil

    config = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=30522)
    save(tmp_path, config, random_weights(config, "DistilBertModel"), "DistilBertModel")
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        shutil.copy(sentence_encoder / name, tmp_path / name)
    report = verification.verify(tmp_path, ["A short text.", "And one a bit longer."], backend="cuda", dtype="bfloat16")
    assert report.ok
    assert report.largest.relative > 1e-4


def test_real_checkpoint(sentence_encoder: Path) -> None:
    model: Any = models.DistilBertModel.from_pretrained(sentence_encoder, backend="cuda")
    exact: Any = models.DistilBertModel.from_pretrained(sentence_encoder, backend="reference", dtype="float64")
    ids = np.array([[101, 1996, 4937, 2938, 102]])  # "The cat sat"
    found, wanted = model(ids).last_hidden_state, exact(ids).last_hidden_state
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_nothing_of_the_native_extension_is_needed() -> None:
    for module in (cuda, device_encoder):
        assert "_C" not in vars(module)
