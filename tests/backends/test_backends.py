"""The native CPU backend on every instruction set against the float64 reference: random models, real text."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import distilrt
from distilrt import _C
from distilrt.backends.base import create
from distilrt.backends.cpu import CpuBackend
from distilrt.backends.reference import ReferenceBackend
from distilrt.batch import pack
from distilrt.checkpoint import packed
from distilrt.checkpoint.weights import Weights, random_weights
from distilrt.errors import BackendError
from distilrt.model import models
from distilrt.model.config import ACTIVATIONS, DistilBertConfig
from distilrt.text.tokenizer import DistilBertTokenizer

HEADS = [
    "DistilBertModel",
    "DistilBertForMaskedLM",
    "DistilBertForSequenceClassification",
    "DistilBertForQuestionAnswering",
    "DistilBertForTokenClassification",
    "DistilBertForMultipleChoice",
]
LENGTHS = [1, 2, 63, 64, 65, 127, 511, 512]
# dim, n_heads, n_layers, hidden_dim: every tail of the vector loops, head_dim 16 to 128, and the real shapes.
SHAPES = [
    (32, 2, 1, 64),
    (36, 2, 3, 100),
    (48, 3, 2, 47),
    (100, 1, 1, 130),
    (128, 8, 12, 256),
    (384, 12, 2, 1536),
    (768, 12, 1, 3072),
    (1024, 8, 1, 1000),
]


def _scaled(weights: Weights, scale: float, rng: np.random.Generator) -> dict[str, Any]:
    """Weights of a trained model's kind: every bias and gain differs from its initial 0 or 1; matrices times scale."""
    out = {}
    for name, array in weights.items():
        if array.ndim == 2:
            out[name] = array * np.float32(scale)
        else:
            out[name] = array + rng.normal(0, 0.2, array.shape).astype(np.float32)
    return out


def _torch_error(config: DistilBertConfig, architecture: str, weights: dict[str, Any], ids: Any, exact: Any) -> float:
    """How far the reference implementation itself is from float64 in float32."""
    model = getattr(transformers, architecture)(transformers.DistilBertConfig(**config.to_dict())).eval()
    prefix = "" if architecture == "DistilBertModel" else "distilbert."
    names = {
        (prefix if name.startswith(("embeddings.", "transformer.")) else "") + name: torch.from_numpy(array)
        for name, array in weights.items()
    }
    model.load_state_dict(names)
    with torch.inference_mode():
        out = model(torch.from_numpy(ids))
    return max(float(np.abs(ours - theirs.numpy()).max()) for ours, theirs in zip(exact, out.to_tuple(), strict=True))


@pytest.mark.parametrize("architecture", HEADS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_head_is_exact(isa: str, architecture: str, shape: tuple[int, int, int, int]) -> None:
    seed = int(np.random.default_rng().integers(2**32))  # fresh in every run; pytest shows it when the test fails
    print("seed", seed)
    rng = np.random.default_rng(seed)
    dim, n_heads, n_layers, hidden_dim = shape
    config = DistilBertConfig(
        dim=dim, n_heads=n_heads, n_layers=n_layers, hidden_dim=hidden_dim, vocab_size=211,
        activation=ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))],
        num_labels=2 if architecture == "DistilBertForQuestionAnswering" else 5,
    )  # fmt: skip
    weights = _scaled(random_weights(config, architecture), float(rng.choice([0.2, 1, 3])), rng)
    length = int(rng.choice(LENGTHS if dim < 700 else LENGTHS[:6]))
    grid = (2, 3, length) if architecture == "DistilBertForMultipleChoice" else (2, length)
    ids = rng.integers(0, config.vocab_size, grid)
    model_class = getattr(models, architecture)
    exact = _outputs(model_class(config, weights, backend="reference", dtype="float64"), ids)
    actual = _outputs(model_class(config, weights, backend="cpu", num_threads=2), ids)
    error = max(np.abs(a - e).max() for a, e in zip(actual, exact, strict=True))
    bound = 1e-5 * max(np.abs(e).max() for e in exact)
    if error > bound:
        bound = max(bound, 2 * _torch_error(config, architecture, weights, ids, exact))
    assert error <= bound


def _outputs(model: Any, ids: Any) -> tuple[Any, ...]:
    return tuple(model(ids).to_tuple())


@pytest.mark.parametrize("length", LENGTHS)
def test_all_layers_at_odd_lengths(isa: str, length: int) -> None:
    config = DistilBertConfig(dim=64, n_heads=2, n_layers=3, hidden_dim=200, vocab_size=99)
    rng = np.random.default_rng(length)
    weights = _scaled(random_weights(config, "DistilBertModel"), 2, rng)
    first = rng.integers(0, 99, length)
    batch = pack(config, [first, rng.integers(0, 99, 3), rng.integers(0, 99, length)])
    exact = ReferenceBackend(config, weights, dtype="float64").forward(batch, all_layers=True)
    backend = CpuBackend(config, weights, num_threads=2)
    every = backend.forward(batch, all_layers=True)
    backend._encoder.poison_workspace()  # NaN shows up if anything reads what this call did not write
    last = backend.forward(batch)
    assert np.abs(every - exact).max() <= 1e-5 * np.abs(exact).max()
    np.testing.assert_array_equal(every[-1], last)
    np.testing.assert_array_equal(last[:length], backend.forward(pack(config, [first])))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("dim", [64, 102])
def test_wanted_rows_are_the_same_to_the_bit(isa: str, dtype: str, dim: int) -> None:
    """The last layer finishes only the rows that a head reads."""
    if dtype not in _C.dtypes(isa):
        with pytest.raises(BackendError, match="float32"):
            create("cpu", DistilBertConfig(), {}, dtype=dtype)
        return
    config = DistilBertConfig(dim=dim, n_heads=2, n_layers=2, hidden_dim=101, vocab_size=99)
    rng = np.random.default_rng(dim)
    weights = _scaled(random_weights(config, "DistilBertModel"), 2, rng)
    batch = pack(config, [rng.integers(0, 99, n) for n in (5, 1, 130, 64)])
    backend = CpuBackend(config, weights, dtype=dtype, num_threads=2)
    every = backend.forward(batch)
    assert np.isfinite(every).all()
    for wanted in ([0, 5, 6, 136], [4, 5, 7, 8, 9, 135, 199], [150], []):
        backend._encoder.poison_workspace()
        rows = np.array(wanted, np.int64)
        np.testing.assert_array_equal(backend.forward(batch, wanted=rows), every[rows])
    for bad in ([3, 3], [5, 2], [-1], [200]):
        with pytest.raises(ValueError, match="wanted rows"):
            backend.forward(batch, wanted=np.array(bad))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_narrow_dtypes_are_near(isa: str, dtype: str, shape: tuple[int, int, int, int]) -> None:
    """bfloat16 within twice torch bfloat16's own error; int8, which no reference has, within a tenth of the spread."""
    if dtype not in _C.dtypes(isa):
        return
    dim, n_heads, n_layers, hidden_dim = shape
    config = DistilBertConfig(dim=dim, n_heads=n_heads, n_layers=n_layers, hidden_dim=hidden_dim, vocab_size=211)
    rng = np.random.default_rng(dim + n_layers)
    weights = _scaled(random_weights(config, "DistilBertModel"), 1, rng)
    ids = rng.integers(0, 211, (3, 70))
    exact = models.DistilBertModel(config, weights, backend="reference", dtype="float64")(ids).last_hidden_state
    backend = CpuBackend(config, weights, dtype=dtype, num_threads=2)
    actual = backend.forward(pack(config, list(ids))).reshape(exact.shape)
    if dtype == "int8":
        assert np.sqrt(np.mean((actual - exact) ** 2)) <= 0.1 * exact.std()
        return
    theirs: Any = transformers.DistilBertModel(transformers.DistilBertConfig(**config.to_dict()))
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    with torch.inference_mode():
        plain = theirs.eval().to(torch.bfloat16)(torch.from_numpy(ids)).last_hidden_state.float().numpy()
    assert np.sqrt(np.mean((actual - exact) ** 2)) <= 2 * np.sqrt(np.mean((plain - exact) ** 2))


def test_real_checkpoint_on_real_text(isa: str, sentence_encoder: Path) -> None:
    tokenizer = DistilBertTokenizer.from_pretrained(sentence_encoder)
    texts = ["The cat sat on the mat.", "A feline rested on a rug.", "Stock prices fell sharply today.",
             " ".join(["Every word of a long text still counts, even the last one."] * 30)]  # fmt: skip
    encoded = tokenizer(texts, padding=True, return_tensors="np")
    exact = distilrt.DistilBertModel.from_pretrained(sentence_encoder, backend="reference", dtype="float64")(**encoded)
    actual = distilrt.DistilBertModel.from_pretrained(sentence_encoder, backend="cpu")(**encoded)
    error = np.abs(actual.last_hidden_state - exact.last_hidden_state).max()
    assert error <= 1e-5 * np.abs(exact.last_hidden_state).max()

    mask = encoded["attention_mask"][..., None]
    vectors = (actual.last_hidden_state * mask).sum(1) / mask.sum(1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors[0] @ vectors[1:3].T, [0.5530, 0.0598], atol=5e-5)


def test_forced_isa_is_the_one_in_use(isa: str) -> None:
    config = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=9)
    assert CpuBackend(config, random_weights(config, "DistilBertModel")).describe()["isa"] == isa


def test_impossible_choices_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    config = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=9)
    weights = random_weights(config, "DistilBertModel")
    with pytest.raises(BackendError, match=r"float32.*float16"):
        create("cpu", config, weights, dtype="float16")
    with pytest.raises(ValueError, match="num_threads"):
        create("cpu", config, weights, num_threads=0)
    with pytest.raises(ValueError, match="reference, cpu, cuda"):
        create("gpu", config, weights)
    monkeypatch.setenv("DISTILRT_FORCE_ISA", "sse9")
    with pytest.raises(BackendError, match=r"sse9.*generic"):
        create("cpu", config, weights)
    monkeypatch.delenv("DISTILRT_FORCE_ISA")
    monkeypatch.setenv("DISTILRT_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="DISTILRT_NUM_THREADS"):
        create("cpu", config, weights)
    monkeypatch.setenv("DISTILRT_NUM_THREADS", "1")
    assert CpuBackend(config, weights).describe()["num_threads"] == 1


def test_native_call_checks_what_it_is_given() -> None:
    """Whatever reaches the extension without engine/batch.py in front must not read out of bounds."""
    config = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=9, max_position_embeddings=7)
    encoder = CpuBackend(config, random_weights(config, "DistilBertModel"), num_threads=1)._encoder

    def call(ids: list[int], positions: list[int], ends: list[int], keys: list[int]) -> Any:
        first, *others = (np.array(x, np.int32) for x in (ids, positions, ends, keys))
        return encoder.forward(first, None, others[0], others[1], others[2])

    assert call([1, 8], [0, 6], [0, 2], [2]).shape == (2, 32)
    assert call([], [], [0], []).shape == (0, 32)
    for bad in (
        ([1, 9], [0, 1], [0, 2], [2]),
        ([1, -1], [0, 1], [0, 2], [2]),
        ([1, 2], [0, 7], [0, 2], [2]),
        ([1, 2], [0, -1], [0, 2], [2]),
        ([1, 2], [0, 1], [0, 3], [3]),
        ([1, 2], [0, 1], [0, 1], [1]),
        ([1, 2], [0, 1], [1, 2], [1]),
        ([1, 2], [0, 1], [0, 2], [3]),
        ([1, 2], [0, 1], [0, 2, 2], [2, 0]),
        ([1, 2], [0, 1], [0, 2, 1], [1, 1]),
        ([1, 2], [0], [0, 1], [1]),
        ([1], [0], [0], [1]),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            call(*bad)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_memory_is_flat_over_2000_random_shapes() -> None:
    config = DistilBertConfig(dim=64, n_heads=2, n_layers=1, hidden_dim=128, vocab_size=99)
    backend = CpuBackend(config, random_weights(config, "DistilBertModel"), num_threads=2)
    rng = np.random.default_rng(0)
    backend.forward(pack(config, [np.ones(512, np.int64)] * 8))  # the largest shape first
    size = backend.describe()["workspace_bytes"]
    shapes = [rng.integers(1, 513, rng.integers(1, 9)) for _ in range(2000)]
    for lengths in shapes[:200]:
        backend.forward(pack(config, [np.ones(n, np.int64) for n in lengths]))
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident_bytes()
    for lengths in shapes[200:]:
        backend.forward(pack(config, [np.ones(n, np.int64) for n in lengths]))
    ctypes.CDLL(None).malloc_trim(0)
    assert _resident_bytes() - before <= 2 * 2**20
    # It depends on how sequences are shared out among threads, so another shape may need a little more.
    assert backend.describe()["workspace_bytes"] <= 2 * size


def _resident_pages(file: Path) -> int:
    """Bytes of a file that this process has mapped and in memory."""
    maps = Path("/proc/self/smaps").read_text().split(str(file))[1:]
    return sum(int(part.split("Rss:")[1].split()[0]) * 1024 for part in maps)


def test_packing_leaves_no_pages_of_the_file(tmp_path: Path) -> None:
    """A checkpoint that was read must not count twice: as the file's pages, and packed."""
    config = DistilBertConfig(dim=768, n_heads=12, n_layers=2, hidden_dim=3072, vocab_size=99, dropout=0.1)
    model = models.DistilBertModel(config, backend="reference")
    model.save_pretrained(tmp_path)
    loaded = models.DistilBertModel.from_pretrained(tmp_path, backend="cpu")
    file = tmp_path / "model.safetensors"
    assert _resident_pages(file) < file.stat().st_size / 4
    assert np.isfinite(loaded(input_ids=np.array([[1, 2, 3]])).last_hidden_state).all()


@pytest.mark.parametrize("isa", _C.available_isas())
def test_a_packed_file_is_not_held_beside_a_copy(isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some instruction sets multiply int8 weights of fewer bits, and then need the file's no more."""
    monkeypatch.setenv("DISTILRT_FORCE_ISA", isa)
    config = DistilBertConfig(dim=256, n_heads=4, n_layers=4, hidden_dim=1024, vocab_size=99)
    model, file = models.DistilBertModel(config, backend="cpu", dtype="int8"), tmp_path / "first" / packed.DATA
    packed.write(file.parent, packed.of(model))
    loaded = models.DistilBertModel.from_pretrained(file.parent, backend="cpu")
    copied = loaded.backend.describe()["weight_bits"] < 8
    assert copied or isa != "avx2"
    if copied:
        assert _resident_pages(file) < file.stat().st_size / 4
    ids = np.array([[1, 2, 3]])
    np.testing.assert_array_equal(loaded(ids).last_hidden_state, model(ids).last_hidden_state)
    packed.write(tmp_path / "second", packed.of(loaded))  # Writing reads the released pages again.
    assert (tmp_path / "second" / packed.DATA).read_bytes() == file.read_bytes()
