"""Calibration: what texts settle, what stays in higher precision, the models that come of it; scales and rounding."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import distilrt
from distilrt import _C
from distilrt.batch import pack
from distilrt.checkpoint import calibration, codings, packed
from distilrt.checkpoint.calibration import Calibration, calibrate, calibration_of, texts_of
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.weights import load_weights, random_weights, save_checkpoint
from distilrt.errors import InvalidInput
from distilrt.model import functional, models
from distilrt.model.architecture import linears
from distilrt.model.config import DistilBertConfig
from distilrt.text.tokenizer import DistilBertTokenizer

CONFIG = DistilBertConfig(dim=54, n_heads=3, n_layers=2, hidden_dim=101, vocab_size=30522)
Weights = dict[str, npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def tokenizer(sentence_encoder: Path) -> DistilBertTokenizer:
    return DistilBertTokenizer.from_pretrained(sentence_encoder)


def made(seed: int = 0) -> Weights:
    """Random weights of a size that makes every part matter."""
    rng = np.random.default_rng(seed)
    weights = random_weights(CONFIG, "DistilBertModel")
    return {name: array + rng.normal(0, 0.2, array.shape).astype(np.float32) for name, array in weights.items()}


def with_outliers() -> Weights:
    """The same, with a column of a layer's FFN input so large that int8 loses the others."""
    weights = made()
    bias = weights["transformer.layer.1.sa_layer_norm.bias"].copy()
    bias[7] = 2e4
    return weights | {"transformer.layer.1.sa_layer_norm.bias": bias}


def names() -> list[str]:
    return list(linears(CONFIG.num_layers, (), "int8"))


def test_every_linear_layer_by_what_it_sees(tokenizer: DistilBertTokenizer) -> None:
    weights = made()
    found = calibrate(CONFIG, weights, tokenizer)
    texts = texts_of(calibration.BUILT_IN.read_bytes(), "")
    assert found.source == f"{len(texts)} built-in texts"
    assert sorted(found.errors) == sorted(found.linears) == sorted(names())
    assert found.kept == ()
    batch = pack(CONFIG, tokenizer(texts)["input_ids"])
    states = functional.encoder_forward(CONFIG, weights, batch)
    for i in range(CONFIG.num_layers):
        linear = found.linears[f"layer.{i}.qkv"]
        sources = (f"transformer.layer.{i}.attention.{part}_lin.weight" for part in "qkv")
        weight = np.concatenate([weights[source] for source in sources])
        # Sums of a whole batch and of one sequence are rounded apart.
        np.testing.assert_allclose(linear.input_scales, calibration.column_scales(states[i], weight), rtol=1e-4)
        exact = states[i] @ weight.T
        ours = codings.round_rows(states[i] * linear.input_scales) @ linear.weight().T
        error = np.linalg.norm(ours - exact) / np.linalg.norm(exact - exact.mean(axis=0))
        assert error == pytest.approx(found.errors[f"layer.{i}.qkv"], rel=1e-2)
        assert error <= codings.CODINGS["cpu", "int8"].threshold


def test_the_same_texts_give_the_same_outcome(tokenizer: DistilBertTokenizer, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("\n  One text.  \n\nAnd another one,\u00a0longer.\r\n", encoding="utf-8")
    assert texts_of((tmp_path / "texts").read_bytes(), "") == ["One text.", "And another one,\u00a0longer."]
    first, second = (calibrate(CONFIG, made(), tokenizer, tmp_path / "texts") for _ in range(2))
    assert first.source == "2 of 2 texts of texts"
    assert first.errors == second.errors
    for name, linear in first.linears.items():
        np.testing.assert_array_equal(linear.codes, second.linears[name].codes)
        np.testing.assert_array_equal(linear.input_scales, second.linears[name].input_scales)
    assert calibrate(CONFIG, made(), tokenizer).errors != first.errors


def test_long_texts_and_many(tokenizer: DistilBertTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are cut at the longest sequence, and read up to a number of tokens, but never none."""
    path = tmp_path / "texts"
    path.write_text("word " * 1000 + "\n" + "Five short words are enough.\n" * 20)
    monkeypatch.setattr(calibration, "MAX_TOKENS", 512 + 25)
    assert calibrate(CONFIG, made(), tokenizer, path).source.startswith("4 of 21 texts")
    monkeypatch.setattr(calibration, "MAX_TOKENS", 10)
    assert calibrate(CONFIG, made(), tokenizer, path).source.startswith("1 of 21 texts")


def test_bad_files(tokenizer: DistilBertTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "texts"
    with pytest.raises(FileNotFoundError, match="texts"):
        calibrate(CONFIG, made(), tokenizer, path)
    for data, message in ((b"", "has no text"), (b" \n\n", "one a line"), (b"ok\n\xff\n", "must be UTF-8")):
        path.write_bytes(data)
        with pytest.raises(InvalidInput, match=message):
            calibrate(CONFIG, made(), tokenizer, path)


def test_tokenizer_of_another_model(tokenizer: DistilBertTokenizer) -> None:
    config = CONFIG.replace(vocab_size=50)
    with pytest.raises(InvalidInput, match="input_ids"):
        calibrate(config, random_weights(config, "DistilBertModel"), tokenizer)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_model_stays_in_higher_precision(tokenizer: DistilBertTokenizer, bad: float) -> None:
    """From where it is broken on, and says so with its answers."""
    weights = made()
    weights["transformer.layer.0.ffn.lin1.weight"][3, 4] = bad
    found = calibrate(CONFIG, weights, tokenizer)
    assert list(found.kept) == [name for name in names() if name not in ("layer.0.qkv", "layer.0.out_proj")]
    model = distilrt.DistilBertModel(CONFIG, weights, backend="cpu", dtype="int8", calibration=found)
    assert np.isnan(model([[1, 2, 3]]).last_hidden_state).all()


def test_weights_and_rows_that_overflow(tokenizer: DistilBertTokenizer) -> None:
    """Squares of such inputs are infinite, which leaves nothing to round by."""
    weights = made()
    weights["transformer.layer.0.ffn.lin1.bias"][3] = 1e30
    found = calibrate(CONFIG, weights, tokenizer)
    assert "layer.0.ffn_out" in found.kept
    assert {"layer.0.qkv", "layer.0.out_proj", "layer.0.ffn_in"} <= set(found.linears)


def test_dead_columns_and_layers(tokenizer: DistilBertTokenizer) -> None:
    weights = made()
    weights["transformer.layer.0.attention.out_lin.weight"][:] = 0
    weights["transformer.layer.0.ffn.lin1.weight"][:5] = 0
    weights["transformer.layer.0.ffn.lin1.bias"][:5] = -100  # gelu of it is 0
    weights["transformer.layer.1.ffn.lin2.weight"][:, 3] = 0
    found = calibrate(CONFIG, weights, tokenizer)
    assert found.errors["layer.0.out_proj"] == 0
    assert found.kept == ()
    model = distilrt.DistilBertModel(CONFIG, weights, backend="cpu", dtype="int8", calibration=found)
    assert np.isfinite(model([[1, 2, 3]]).last_hidden_state).all()


@pytest.fixture(scope="module")
def mixed(tokenizer: DistilBertTokenizer) -> Calibration:
    return calibrate(CONFIG, with_outliers(), tokenizer)


def test_layers_that_int8_does_not_fit_stay_in_higher_precision(isa: str, mixed: Calibration) -> None:
    """And the others don't; rows alone and together are the same to the bit, and nearer to the exact ones than int8."""
    assert "layer.1.ffn_in" in mixed.kept
    assert 4 < len(mixed.linears) < 8
    weights = with_outliers()
    options: dict[str, Any] = {"backend": "cpu", "dtype": "int8", "num_threads": 2}
    model = models.DistilBertModel(CONFIG, weights, calibration=mixed, **options)
    described = model.backend.describe()
    assert described["kept"] == list(mixed.kept)
    assert described["calibration"] == mixed.source
    assert 6 < described["weight_bits"] < 8 if isa == "avx2" else described["weight_bits"] == 8
    higher = "bfloat16" if "bfloat16" in _C.dtypes(isa) else "float32"
    for name in names():
        parts = model.backend.linear_parts(name)  # type: ignore[attr-defined]
        assert parts["dtype"] == (higher if name in mixed.kept else "int8")
        assert (parts["input_scales"] is None) == (name in mixed.kept)
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 30522, n) for n in (1, 65, 130, 7)]
    batch = pack(CONFIG, sequences)
    exact = functional.encoder_forward(CONFIG, weights, batch, np.float64)[-1]
    plain = models.DistilBertModel(CONFIG, weights, **options)
    assert plain.backend.describe()["calibration"] is None
    model.backend.forward(batch)
    model.backend._encoder.poison_workspace()  # type: ignore[attr-defined]
    rows = model.backend.forward(batch)
    assert np.sqrt(np.mean((rows - exact) ** 2)) <= 0.1 * exact.std()
    assert np.linalg.norm(rows - exact) < np.linalg.norm(plain.backend.forward(batch) - exact)
    wanted = np.array([0, 1, 70, 202])
    np.testing.assert_array_equal(model.backend.forward(batch, wanted=wanted), rows[wanted])
    np.testing.assert_array_equal(model.backend.forward(pack(CONFIG, sequences[2:3])), rows[66:196])


def test_the_encoder_loses_no_more_than_its_coding_allows(tokenizer: DistilBertTokenizer) -> None:
    """The more it may lose, the fewer layers stay, and those that lose most an operation stay first."""
    weights, float8 = made(), codings.CODINGS["cuda", "float8"]
    ids = tokenizer(texts_of(calibration.BUILT_IN.read_bytes(), ""))["input_ids"]
    batch = pack(CONFIG, calibration._within(ids, 512))

    def vectors(linears: Mapping[str, calibration.CodedLinear], coding: codings.Coding) -> npt.NDArray[np.float64]:
        def product(name: str, rows: Any, weight: Any) -> Any:
            if name not in linears:
                return rows @ weight.T
            return coding.rounded_rows(rows * linears[name].input_scales) @ linears[name].weight().T

        sums = np.add.reduceat(calibration._forward(CONFIG, weights, batch, product), batch.cu_seqlens[:-1], axis=0)
        unit: npt.NDArray[np.float64] = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return unit

    exact = vectors({}, float8)
    kept: list[tuple[str, ...]] = []
    for loss in (np.inf, 3e-4, 1e-4, 0.0):
        coding = replace(float8, threshold=0.5, loss=loss)
        found = calibrate(CONFIG, weights, tokenizer, coding=coding)
        lost = 1 - (vectors(found.linears, coding) * exact).sum(axis=1).mean()
        print(loss, lost, found.kept)
        assert lost <= 1.2 * loss + 1e-6
        kept.append(found.kept)
    assert kept[0] == ()
    assert sorted(kept[-1]) == sorted(names())
    assert 0 < len(kept[1]) < len(kept[2]) < len(names())
    assert set(kept[1]) < set(kept[2])


def test_a_small_layer_is_kept_before_a_large_one_that_loses_a_little_more() -> None:
    def linear(size: int) -> calibration.CodedLinear:
        return calibration.CodedLinear(np.zeros((size, 10)), np.zeros(size, np.float32), np.zeros(10, np.float32))

    found = {"small": linear(10), "large": linear(40), "none": linear(10)}
    losses = {"small": 0.3, "large": 0.4, "none": 0.0}
    for bound, kept in ((0.7, []), (0.5, ["small"]), (0.3, ["small", "large"])):
        assert calibration._most_lossy(losses, found, bound) == kept
    assert set(calibration._most_lossy(losses | {"none": np.nan}, found, 1)) == set(found)


def test_packed_with_layers_in_higher_precision(
    isa: str, mixed: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers to the bit, from a folder that every instruction set can open."""
    model = models.DistilBertModel(CONFIG, with_outliers(), backend="cpu", dtype="int8", calibration=mixed)
    packed.write(tmp_path / "first", packed.of(model))
    opened = models.DistilBertModel.from_pretrained(tmp_path / "first")
    ids = np.random.default_rng(0).integers(0, 30522, (3, 40))
    expected = model(ids).last_hidden_state
    np.testing.assert_array_equal(opened(ids).last_hidden_state, expected)
    for key in ("kept", "calibration", "packed_bytes"):
        assert opened.backend.describe()[key] == model.backend.describe()[key]
    packed.write(tmp_path / "second", packed.of(opened))
    first, second = (tmp_path / name / "packed.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert distilrt.verify(tmp_path / "first").backend["kept"] == list(mixed.kept)
    monkeypatch.setenv("DISTILRT_FORCE_ISA", "generic")
    elsewhere = models.DistilBertModel.from_pretrained(tmp_path / "first")(ids).last_hidden_state
    assert np.sqrt(np.mean((elsewhere - expected) ** 2)) <= 0.05 * expected.std()


def test_checkpoints_with_and_without_a_tokenizer(sentence_encoder: Path, tmp_path: Path) -> None:
    weights = made()
    save_checkpoint(tmp_path, CONFIG, weights, "DistilBertModel")
    options: dict[str, Any] = {"backend": "cpu", "dtype": "int8"}
    plain = models.DistilBertModel.from_pretrained(tmp_path, **options)
    assert plain.backend.describe()["calibration"] is None
    assert calibration_of(Source(tmp_path), CONFIG, weights) is None
    (tmp_path / "texts").write_text("One text.\n")
    with pytest.raises(OSError, match=r"tokenizer\.json"):
        calibration_of(Source(tmp_path), CONFIG, weights, tmp_path / "texts")
    expected = models.DistilBertModel(CONFIG, weights, **options)([[1, 2, 3]]).last_hidden_state
    np.testing.assert_array_equal(plain([[1, 2, 3]]).last_hidden_state, expected)
    shutil.copy(sentence_encoder / "vocab.txt", tmp_path)
    calibrated = models.DistilBertModel.from_pretrained(tmp_path, **options)
    assert "built-in texts" in calibrated.backend.describe()["calibration"]
    assert "calibration" not in models.DistilBertModel.from_pretrained(tmp_path, backend="cpu").backend.describe()


@pytest.fixture(scope="module")
def real_calibration(sentence_encoder: Path) -> Calibration | None:
    config = DistilBertConfig.from_pretrained(sentence_encoder)
    return calibration_of(
        Source(sentence_encoder), config, load_weights(Source(sentence_encoder), "DistilBertModel", config)
    )


@pytest.mark.whole
def test_real_checkpoint_is_nearer_than_without(
    isa: str, sentence_encoder: Path, real_calibration: Calibration
) -> None:
    config = DistilBertConfig.from_pretrained(sentence_encoder)
    weights = load_weights(Source(sentence_encoder), "DistilBertModel", config)
    texts = ["Bees dance to tell each other where the flowers are.", "Is this seat taken?",
             "The invoice of 14 May was paid twice, so we ask for 312.40 back.",
             "He opened the window, looked down at the empty street, and closed it again. " * 6]  # fmt: skip
    encoded = DistilBertTokenizer.from_pretrained(sentence_encoder)(texts, padding=True, return_tensors="np")
    mask = encoded["attention_mask"].astype(bool)
    exact = models.DistilBertModel(config, weights, backend="reference")(**encoded).last_hidden_state[mask]
    errors = []
    for found in (real_calibration, None):
        model = models.DistilBertModel(config, weights, backend="cpu", dtype="int8", calibration=found)
        errors.append(np.linalg.norm(model(**encoded).last_hidden_state[mask] - exact))
    assert errors[0] < 0.8 * errors[1]


@pytest.fixture
def rng() -> np.random.Generator:
    """Fresh numbers in every run: the bounds must hold for all of them."""
    return np.random.default_rng()


SHAPES = [(1, 1), (2, 3), (7, 64), (5, 65), (96, 40), (33, 200)]


def _correlated(rng: Any, m: int, k: int) -> Any:
    """Rows as layers see them: few directions, columns of very different size."""
    rows = rng.standard_normal((m, 4)) @ rng.standard_normal((4, k)) + 0.3 * rng.standard_normal((m, k))
    return (rows * np.exp(rng.uniform(-3, 3, k))).astype(np.float32)


def test_scales_make_columns_of_rows_and_weights_equally_large(rng: Any) -> None:
    rows = (rng.standard_normal((9, 50)) * np.exp(rng.uniform(-30, 30, 50))).astype(np.float32)
    weight = (rng.standard_normal((7, 50)) * np.exp(rng.uniform(-30, 30, 50))).astype(np.float32)
    rows[:, 3], weight[:, 8] = 0, 0
    scales = calibration.column_scales(rows, weight)
    assert scales.dtype == np.float32
    assert (scales[3], scales[8]) == (1, 1)
    used = np.delete(np.arange(50), [3, 8])
    assert abs(np.log(scales[used].astype(float)).mean()) < 1e-5
    ratio = np.abs(rows * scales).max(axis=0)[used] / np.abs(weight / scales).max(axis=0)[used]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_scales_of_nothing() -> None:
    zeros = np.zeros((2, 5), np.float32)
    np.testing.assert_array_equal(calibration.column_scales(zeros, zeros), 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_rounded_as_the_native_encoder_does(rng: Any, shape: tuple[int, int]) -> None:
    """Whose weights are the identity here. A tie may go to the other side."""
    rows = _correlated(rng, *shape)
    k = shape[1]
    native = np.empty(shape, np.float32)
    _C.Kernels(_C.available_isas()[0], "int8").linear(
        rows, np.eye(k, dtype=np.float32), np.zeros(k, np.float32), out=native
    )
    ours = codings.round_rows(rows)
    span = rows.max(axis=1, keepdims=True) - rows.min(axis=1, keepdims=True)
    assert (np.abs(ours - rows) <= span * (0.5 / 255 + 1e-5) + 1e-6 * np.abs(rows).max()).all()
    off = np.abs(ours - native) > 1e-5 * (span + np.abs(rows).max())
    fraction = (rows - rows.min(axis=1, keepdims=True)) / np.where(span > 0, span, 1) * 255 % 1
    assert (np.abs(fraction - 0.5)[off] < 1e-3).all()
    constant = np.full((2, 3), 0.7, np.float32)
    np.testing.assert_array_equal(codings.round_rows(constant), constant)


def test_without_correlation_every_weight_goes_to_the_nearest(rng: Any) -> None:
    weight = rng.standard_normal((20, 70), np.float32)
    weight[4] = 0
    for gram in (np.diag(rng.uniform(0.1, 3, 70)).astype(np.float32), np.zeros((70, 70), np.float32)):
        codes, scales = calibration.round_weight(weight, gram)
        assert codes.dtype == np.int8
        assert codes.flags.c_contiguous
        np.testing.assert_array_equal(scales, np.abs(weight).max(axis=1) / np.float32(127))
        assert (np.abs(codes * scales[:, None] - weight) <= scales[:, None] * (0.5 + 1e-4)).all()
    assert (codes[4] == 0).all()


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_each_column_makes_up_for_those_before_it(rng: Any, n: int, k: int) -> None:
    """GPTQ by its definition, in float64: given the columns already rounded, the next has its value in the best weight
    that has them, rounded to the nearest."""
    rows, weight = _correlated(rng, 2 * k, k), rng.standard_normal((n, k), np.float32)
    gram = rows.T @ rows
    codes, scales = calibration.round_weight(weight, gram)
    damped = gram.astype(float) + 0.3 * np.diag(gram).mean() * np.eye(k)
    exact, order = weight / scales[:, None].astype(float), np.argsort(np.diag(gram), kind="stable")[::-1]
    for i in range(k):
        done, rest = order[:i], order[i:]
        lost = exact[:, done] - codes[:, done]
        best = exact[:, rest] + lost @ np.linalg.solve(damped[np.ix_(rest, rest)], damped[np.ix_(rest, done)]).T
        target = np.clip(best[:, 0], -127, 127)
        assert (np.abs(codes[:, order[i]] - target) <= 0.5 + 1e-3 * (1 + np.abs(lost).sum(axis=1))).all()


def test_outputs_of_correlated_rows_are_nearer_than_with_nearest_weights(rng: Any) -> None:
    rows, weight = _correlated(rng, 400, 96), rng.standard_normal((64, 96), np.float32)
    codes, scales = calibration.round_weight(weight, rows.T @ rows)
    nearest = np.rint(weight / scales[:, None])
    ours, plain = (np.linalg.norm(rows @ (each * scales[:, None] - weight).T) for each in (codes, nearest))
    assert ours < 0.8 * plain
