"""Folders packed for a GPU: the same answers to the bit as from the checkpoint, and a load that only copies."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from typer.testing import CliRunner

import distilrt
from distilrt.__main__ import main
from distilrt.backends.cuda import backend as cuda
from distilrt.checkpoint import gpu_tensors, packed, packing, tensor_files
from distilrt.checkpoint.calibration import Calibration, CodedLinear
from distilrt.checkpoint.codings import CODINGS, Coding
from distilrt.checkpoint.gpu_tensors import packed_for_gpu
from distilrt.checkpoint.pickle_file import stored_numbers
from distilrt.checkpoint.tensor_files import SafetensorsFile
from distilrt.cli import app
from distilrt.errors import BackendError, CheckpointError
from distilrt.kernels.quantize import pointers
from distilrt.model import models
from distilrt.model.architecture import linears
from distilrt.model.heads import HEADS
from tests.backends.cuda.cuda_models import config_of, fresh, weights_of

# Rows beyond the real ones are not defined, and the interpreter computes with whatever they hold.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
CODES = packing.CODES
KEPT = ("layer.0.qkv", "layer.0.ffn_out")


def calibrated(weights: Any, dtype: str, rng: np.random.Generator) -> Calibration | None:
    """As texts could have it, with two layers kept; None of dtypes that have no codes."""
    if dtype not in CODES:
        return None
    found = {}
    for name, (_, sources) in linears(1, (), dtype).items():
        weight = np.concatenate([weights[f"{source}.weight"] for source in sources])
        scales = np.asarray(rng.uniform(0.5, 2, weight.shape[1]), np.float32)
        codes, columns = CODINGS["cuda", dtype].nearest_codes(np.asarray(weight / scales, np.float32))
        found[name] = CodedLinear(codes.astype(CODINGS["cuda", dtype].held), columns, scales)
    return Calibration("texts", dict.fromkeys(found, 0.0), {name: found[name] for name in found if name not in KEPT})


# The interpreter takes its time: every dtype and every head once, and the head with the most tensors in two dtypes.
@pytest.mark.parametrize(
    ("dtype", "architecture"),
    [
        ("float32", "DistilBertForMaskedLM"),
        ("float16", "DistilBertForSequenceClassification"),
        ("bfloat16", "DistilBertForQuestionAnswering"),
        ("float8", "DistilBertForMaskedLM"),
        ("float8", "DistilBertForMultipleChoice"),
        ("int8", "DistilBertModel"),
        ("int8", "DistilBertForTokenClassification"),
    ],
)
def test_answers_are_the_same_to_the_bit(
    dtype: str, architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tied projection of the vocabulary, odd widths, kept layers; and nothing is rounded or joined at load."""
    rng, config = fresh(), config_of(num_labels=2, n_layers=1)
    weights = weights_of(config, architecture, rng)
    if architecture == "DistilBertForMaskedLM":
        weights["vocab_projector.weight"] = weights["embeddings.word_embeddings.weight"]
    made: Any = getattr(models, architecture)
    calibration = calibrated(weights, dtype, rng)
    model = made(config, weights, backend="cuda", dtype=dtype, calibration=calibration)
    held = packed_for_gpu(config, weights, architecture, dtype, calibration)
    assert packed.write(tmp_path, held) == (tmp_path / "packed.safetensors").stat().st_size
    ids = rng.integers(0, 61, (1, 2, 17) if HEADS[architecture].has_choices else (2, 17))
    expected = model(ids, output_hidden_states=True)

    def compute(*_: Any) -> NoReturn:
        raise AssertionError("a load computes")

    for module, name in (
        (np, "concatenate"), (np, "array_equal"), (tensor_files, "to_bfloat16"), (gpu_tensors, "as_stored"),
        (gpu_tensors, "GpuTensors"), (cuda, "packed_for_gpu"), (Coding, "nearest_codes"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, compute)
    found = made.from_pretrained(tmp_path)
    monkeypatch.undo()
    assert (found.backend.name, found.dtype) == ("cuda", dtype)
    facts = found.backend.describe()
    assert facts == model.backend.describe()
    if dtype in CODES:
        assert (facts["kept"], facts["calibration"]) == (list(KEPT), "texts")
    for name, value in found(ids, output_hidden_states=True).items():
        np.testing.assert_array_equal(value, expected[name])
    assert_copied(found, tmp_path)
    again = packed.of(found)
    packed.write(tmp_path / "again", again)
    assert (tmp_path / "again" / "packed.safetensors").read_bytes() == (tmp_path / "packed.safetensors").read_bytes()


def assert_copied(model: Any, folder: Path) -> None:
    """What lies on the device are the bytes of the file, all of them."""
    file = SafetensorsFile(folder / "packed.safetensors")
    encoder = model.backend.encoder
    tensors = [encoder._words, encoder._positions]
    for matrix_or_gain, vector in (*encoder.linears.values(), *encoder.norms.values()):
        tensors += [each for each in (*pointers(matrix_or_gain), vector) if each is not None]
    held = {each.data_ptr(): stored_numbers(each).tobytes() for each in tensors}
    assert sorted(held.values()) == sorted(file.raw(name).tobytes() for name in file.specs)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8"])
def test_without_calibration_and_with_two_matrices_that_differ(dtype: str, tmp_path: Path) -> None:
    """A projection that a checkpoint has beside other word embeddings is its own."""
    rng, config = fresh(), config_of(n_layers=1)
    weights = weights_of(config, "DistilBertForMaskedLM", rng)
    weights["vocab_projector.weight"] = weights["vocab_projector.weight"] + np.float32(1)
    assert config.tie_word_embeddings
    model = models.DistilBertForMaskedLM(config, weights, backend="cuda", dtype=dtype)
    packed.write(tmp_path, packed.of(model))
    found = models.DistilBertForMaskedLM.from_pretrained(tmp_path)
    ids = rng.integers(0, 61, (2, 5))
    np.testing.assert_array_equal(found(ids).logits, model(ids).logits)
    assert "vocab_projector.weight" in found.weights
    bare: Any = models.DistilBertModel.from_pretrained(tmp_path)
    assert "vocab_projector" not in bare.backend.encoder.linears


def test_pickled_models_are_the_same() -> None:
    """Though nobody has their calibration any more."""
    rng, config, dtype = fresh(), config_of(n_layers=1), "int8"
    weights = weights_of(config, "DistilBertModel", rng)
    calibration = calibrated(weights, dtype, rng)
    model = models.DistilBertModel(config, weights, backend="cuda", dtype=dtype, calibration=calibration)
    found = pickle.loads(pickle.dumps(model))
    ids = rng.integers(0, 61, (1, 6))
    np.testing.assert_array_equal(found(ids).last_hidden_state, model(ids).last_hidden_state)
    assert found.backend.describe() == model.backend.describe()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = config_of(n_layers=1)
    weights = weights_of(config, "DistilBertModel", fresh())
    packed.write(tmp_path, packed_for_gpu(config, weights, "DistilBertModel", "float8"))
    return tmp_path


def test_it_serves_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Callable[..., Any] = models.DistilBertModel.from_pretrained
    for backend in ("cpu", "reference"):
        with pytest.raises(CheckpointError, match=f"packed for backend='cuda' in float8, found backend '{backend}'"):
            opened(folder, backend=backend)
    for dtype in ("int8", "float32"):
        with pytest.raises(BackendError, match=f"packed for .* in float8, found dtype '{dtype}'; use 'auto'"):
            opened(folder, dtype=dtype)
    with pytest.raises(CheckpointError, match=r"and has transformer.*need the checkpoint that it was packed from"):
        opened(folder).state_dict()
    assert distilrt.verify(folder).reference.endswith("packed for backend 'cuda'")
    monkeypatch.setenv("DISTILRT_BACKEND", "cpu")
    with pytest.raises(CheckpointError, match="use 'auto', or pack the checkpoint with --backend cpu"):
        opened(folder)
    monkeypatch.delenv("DISTILRT_BACKEND")
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(BackendError, match=r"not available: .*; or pack the checkpoint with --backend cpu"):
        opened(folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("backend", "cpu", r"dtype is 'float8', which this distilrt can't read"),
        ("dtype", "int8", r"tensor layer.0.qkv.codes is float8 \[108, 36\], and int8 \[108, 36\] by config.json"),
        ("dtype", "bfloat16", r"tensor layer.0.qkv.weight is not there"),
        ("kept", ["layer.0.qkv"], r"tensor layer.0.qkv.weight is not there, and bfloat16 \[108, 36\] by"),
        ("kept", ["vocab_projector"], r"kept is \['vocab_projector'\], and this float8 model has"),
        ("calibration", "texts", r"tensor layer.0.qkv.input_scales is not there"),
        ("version", 2, r"format version 2.*pack the model again"),
    ],
)
def test_a_wrong_index_is_refused(folder: Path, name: str, value: Any, message: str) -> None:
    path = folder / "packed.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(CheckpointError, match=message):
        models.DistilBertModel.from_pretrained(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / "packed.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="it was truncated or replaced; copy the whole folder again"):
        models.DistilBertModel.from_pretrained(folder)


PACK = """
import sys
from distilrt.__main__ import main
sys.argv[1:] = ["pack", *sys.argv[1:], "--backend", "cuda"]
try:
    main()
finally:
    assert "torch" not in sys.modules and "triton" not in sys.modules
"""


def test_command_line_needs_no_gpu_and_no_torch(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = folder_of("DistilBertForSequenceClassification", n_layers=1, max_position_embeddings=40)
    out = tmp_path / "packed"
    command = [sys.executable, "-c", PACK, str(checkpoint), str(out), "--dtype", "int8"]
    bare = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=bare)
    facts = json.loads(done.stdout)
    assert (facts["backend"], facts["dtype"], facts["kept"]) == ("cuda", "int8", [])
    shown = CliRunner().invoke(app(), ["info", "--model", str(out), "--json"])
    described = json.loads(shown.stdout)["model"]
    assert [described[name] for name in ("backend", "dtype", "calibration")] == ["cuda", "int8", facts["calibration"]]
    texts = ["text-classification", "A cat sat on the mat.", "--model"]
    how = ["--backend", "cuda", "--dtype", "int8"]
    ours, theirs = (CliRunner().invoke(app(), ["run", *texts, *rest]) for rest in ([str(out)], [str(checkpoint), *how]))
    assert (ours.exit_code, ours.stdout) == (0, theirs.stdout)
    assert distilrt.verify(out, ["Yes."], against=checkpoint).ok


def test_calibration_is_for_codes(
    folder_of: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts"
    texts.write_text("A cat sat on the mat.\n")
    arguments = [str(folder_of("DistilBertModel")), str(tmp_path / "out"), "--backend", "cuda"]
    with pytest.raises(SystemExit) as stop:
        main(["pack", *arguments, "--dtype", "float16", "--calibration", str(texts)])
    assert stop.value.code == 2
    assert "is for float8 and int8, found float16" in " ".join(capsys.readouterr().err.split())
    done = CliRunner().invoke(app(), ["pack", *arguments, "--dtype", "float8", "--calibration", str(texts)])
    assert json.loads(done.stdout)["calibration"] == "1 of 1 texts of texts"
