"""Packed folders: the same bits as unpacked on every instruction set, no copy in memory, and nothing damaged opens."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import distilrt
from distilrt import _C
from distilrt.__main__ import main
from distilrt.checkpoint import packed, packing
from distilrt.checkpoint.packing import PackedWeights, Packing
from distilrt.checkpoint.tensor_files import SafetensorsFile
from distilrt.checkpoint.weights import random_weights
from distilrt.cli import app
from distilrt.errors import BackendError, CheckpointError
from distilrt.model import models
from distilrt.model.architecture import linears
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS

DTYPES = packing.DTYPES["cpu"]
CHECKSUM = "the checksum of when it was packed for backend 'cpu'"
IDS = np.random.default_rng(0).integers(0, 101, (3, 33))


def made(config: DistilBertConfig, architecture: str = "DistilBertModel", **options: Any) -> Any:
    """A model with every part made to matter."""
    rng = np.random.default_rng(1)
    weights = {
        name: array + rng.normal(0, 0.2, array.shape).astype(np.float32)
        for name, array in random_weights(config, architecture).items()
    }
    return getattr(models, architecture)(config, weights, num_threads=2, **{"backend": "cpu", **options})


def opened(folder: Path, architecture: str = "DistilBertModel", **options: Any) -> Any:
    return getattr(models, architecture).from_pretrained(folder, num_threads=2, **options)


def assert_same(found: Any, expected: Any, ids: Any = IDS) -> None:
    actual, exact = found(ids, output_hidden_states=True), expected(ids, output_hidden_states=True)
    for name, value in exact.items():
        np.testing.assert_array_equal(actual[name], value)


@pytest.mark.parametrize("architecture", HEADS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_answers_are_the_same_to_the_bit(
    isa: str, dtype: str, architecture: str, tiny: Callable[..., DistilBertConfig], tmp_path: Path
) -> None:
    if dtype not in _C.dtypes(isa):
        return
    config = tiny(dim=51, num_labels=2 if architecture == "DistilBertForQuestionAnswering" else 5)
    model = made(config, architecture, dtype=dtype)
    size = packed.write(tmp_path, packed.of(model))
    assert size == (tmp_path / "packed.safetensors").stat().st_size
    ids = IDS[None] if architecture == "DistilBertForMultipleChoice" else IDS
    for asked in ("auto", dtype):
        found = opened(tmp_path, architecture, dtype=asked)
        assert found.dtype == dtype
        assert found.num_parameters() == model.num_parameters()
        assert found.backend.describe()["packed_bytes"] == model.backend.describe()["packed_bytes"]
        assert_same(found, model, ids)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_do_not_depend_on_the_instruction_set(
    dtype: str, tiny: Callable[..., DistilBertConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of few bits leave int8 no ties to round differently."""
    config = tiny(dim=51)
    weights = random_weights(config, "DistilBertModel")
    coarse = {name: np.sign(array) * 0.5 for name, array in weights.items()}
    found = set()
    for isa in _C.available_isas():
        if dtype in _C.dtypes(isa):
            monkeypatch.setenv("DISTILRT_FORCE_ISA", isa)
            packed.write(tmp_path, packed.of(models.DistilBertModel(config, coarse, backend="cpu", dtype=dtype)))
            found.add((tmp_path / "packed.safetensors").read_bytes())
    assert len(found) <= 1


def test_panels_and_embeddings_are_views_of_the_file(tiny: Callable[..., DistilBertConfig], tmp_path: Path) -> None:
    packed.write(tmp_path, packed.of(made(tiny(), dtype="int8")))
    model = opened(tmp_path)
    for name in linears(model.config.num_layers, model.weights, "int8"):
        panels = model.backend.linear_parts(name)["panels"]
        assert np.shares_memory(panels, model.weights.native_linear(name)["panels"])
        assert panels.ctypes.data % 64 == 0
        assert not panels.flags.writeable
    dtype, words = model.weights.raw("embeddings.word_embeddings.weight")
    assert dtype == "bfloat16"
    assert np.shares_memory(words, model.weights.raw("embeddings.word_embeddings.weight")[1])


MEMORY = """
import sys, numpy as np, distilrt
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
tiny = distilrt.DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=9)
distilrt.DistilBertModel(tiny, num_threads=1)([[1, 2]])
before = anonymous()
model = distilrt.DistilBertModel.from_pretrained(sys.argv[1], num_threads=1)
model([[1, 2, 3]])
print(anonymous() - before)
"""


def test_opening_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    config = DistilBertConfig(n_layers=2, vocab_size=3000, max_position_embeddings=64)
    size = packed.write(tmp_path, packed.of(made(config, dtype="float32")))
    assert size > 50 * 2**20
    done = subprocess.run([sys.executable, "-c", MEMORY, tmp_path], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 8 * 2**20


def test_packing_again_replaces(tiny: Callable[..., DistilBertConfig], tmp_path: Path) -> None:
    model = made(tiny(), dtype="float32")
    packed.write(tmp_path, packed.of(model))
    first, bytes_before = opened(tmp_path), (tmp_path / "packed.safetensors").read_bytes()
    packed.write(tmp_path, packed.of(first))  # onto itself, from what is mapped of it
    assert (tmp_path / "packed.safetensors").read_bytes() == bytes_before
    other = made(tiny(n_layers=1), dtype="int8")
    packed.write(tmp_path, packed.of(other))
    assert_same(opened(tmp_path), other)
    assert_same(first, model)  # the old file lives on in its map
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "packed.json", "packed.safetensors"]


@pytest.mark.parametrize("pooler", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_bert_stays_one(dtype: str, pooler: bool, tmp_path: Path, tiny: Callable[..., DistilBertConfig]) -> None:
    config, types = tiny(type_vocab_size=2, add_pooling_layer=pooler), np.arange(IDS.size).reshape(IDS.shape) % 2
    model = made(config, dtype=dtype)
    packed.write(tmp_path, packed.of(model))
    again = opened(tmp_path)
    assert again.config.replace(architectures=None) == config
    expected, found = model(IDS, token_type_ids=types), again(IDS, token_type_ids=types)
    assert list(found) == ["last_hidden_state", *(["pooler_output"] if pooler else [])]
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    assert not np.array_equal(found[0], again(IDS)[0])


def test_a_head_may_be_left_out_but_not_made_up(tiny: Callable[..., DistilBertConfig], tmp_path: Path) -> None:
    config = tiny(num_labels=3)
    model = made(config, "DistilBertForSequenceClassification")
    packed.write(tmp_path, packed.of(model))
    bare = models.DistilBertModel(config, model.weights, backend="cpu", num_threads=2)
    assert_same(opened(tmp_path), bare)
    with pytest.raises(CheckpointError, match=r"packed as DistilBertForSequenceClassification and lacks qa_outputs"):
        opened(tmp_path, "DistilBertForQuestionAnswering")
    with pytest.raises(CheckpointError, match=r"lacks classifier.* of DistilBertForMultipleChoice"):
        opened(tmp_path, "DistilBertForMultipleChoice")


def test_what_needs_the_float_weights_says_so(tiny: Callable[..., DistilBertConfig], tmp_path: Path) -> None:
    packed.write(tmp_path / "packed", packed.of(made(tiny(), dtype="int8")))
    model = opened(tmp_path / "packed")
    for needs in (
        model.state_dict,
        lambda: model.save_pretrained(tmp_path / "saved"),
        lambda: model(IDS, output_attentions=True),
    ):
        with pytest.raises(CheckpointError, match=r"packed for backend='cpu' in int8.*need the checkpoint"):
            needs()
    assert not (tmp_path / "saved").exists()
    for backend, advice in (("reference", "load the checkpoint"), ("cuda", "pack the checkpoint with --backend cuda")):
        message = f"packed for backend='cpu' in int8, found backend '{backend}'; use 'auto', or {advice}"
        with pytest.raises(CheckpointError, match=message):
            opened(tmp_path / "packed", backend=backend)
    with pytest.raises(BackendError, match=r"in int8, found dtype 'float32'; use 'auto', or pack the checkpoint in"):
        opened(tmp_path / "packed", dtype="float32")
    with pytest.raises(KeyError):
        model.weights["nothing"]
    assert len(model.weights) == len(list(model.weights))


def test_dtype_that_the_instruction_set_lacks(
    tiny: Callable[..., DistilBertConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed.write(tmp_path, packed.of(made(tiny())))
    monkeypatch.setenv("DISTILRT_FORCE_ISA", "generic")
    file = SafetensorsFile(tmp_path / "packed.safetensors")
    weights = PackedWeights(str(tmp_path), file, tiny(), Packing("DistilBertModel", "bfloat16"))
    with pytest.raises(BackendError, match=r"generic, found 'bfloat16'"):
        models.DistilBertModel(tiny(), weights, backend="cpu")


def _edit_index(**changes: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / "packed.json"
        index = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({name: value for name, value in index.items() if value is not None}))

    return edit


def _edit_config(**changes: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def _write_index(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "packed.json").write_text(text)


def _cut(folder: Path) -> None:
    path = folder / "packed.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(at: int) -> Callable[[Path], object]:
    def flip(folder: Path) -> None:
        path = folder / "packed.safetensors"
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)

    return flip


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("newer", _edit_index(version=9, distilrt="9.1"), r"format version 9, by distilrt '9.1'.* reads version 5: pack"),
    ("older", _edit_index(version=4), r"format version 4, .* reads version 5: pack the model again"),
    ("no version", _edit_index(version=None), "format version None"),
    ("no backend", _edit_index(backend=None), "backend is None.* pack the model again"),
    ("unknown backend", _edit_index(backend=["tpu"]), r"backend is \['tpu'\], which"),
    ("other backend", _edit_index(backend="cuda"), r"tensor layer.0.qkv.codes is not there, and int8 \[144, 48\] by"),
    ("dtype of another backend", _edit_index(dtype="float8"), "dtype is 'float8', which"),
    ("not tied", _edit_index(tied=0), "tied is 0"),
    ("dtype", _edit_index(dtype="int4"), "dtype is 'int4'"),
    ("other dtype", _edit_index(dtype="float32"), r"tensor layer.0.qkv.panels is uint8.*don't belong together; pack"),
    ("architecture", _edit_index(architecture="Bert"), "architecture is 'Bert'"),
    ("unhashable", _edit_index(architecture=["Bert"]), "architecture is "),
    ("kept is no list", _edit_index(kept="layer.0.qkv"), "kept is 'layer.0.qkv'"),
    ("kept is unknown", _edit_index(kept=["layer.2.qkv"]), r"kept is \['layer.2.qkv'\], and .* layer.1.ffn_out; pack"),
    ("kept is odd", _edit_index(kept=[["layer.0.qkv"]]), "kept is "),
    ("kept is packed", _edit_index(kept=["layer.0.qkv"]), r"tensor transformer.layer.0.attention.q_lin.weight is not"),
    ("calibration", _edit_index(calibration=60), "calibration is 60"),
    ("not calibrated", _edit_index(calibration="60 texts"), r"tensor layer.0.qkv.input_scales is not there"),
    ("no checksum", _edit_index(blake2b=None), "blake2b is None"),
    ("bytes", _edit_index(bytes="many"), "bytes is 'many'"),
    ("not json", _write_index("{"), "is not valid JSON.*pack"),
    ("a list", _write_index("[1]"), "must hold a JSON object"),
    ("truncated", _cut, r"expected \d+ bytes by packed.json, found \d+ bytes: it was truncated .*pack the model"),
    ("gone", lambda folder: (folder / "packed.safetensors").unlink(), "found none"),
    ("header", _flip(20), "packed.safetensors"),
    ("layers", _edit_config(n_layers=3), r"tensor layer.2.qkv.panels is not there, and uint8 \[.*by config.json"),
    ("absurd layers", _edit_config(n_layers=10**9), "config.n_layers is 1000000000, but .* has only"),
    ("fewer layers", _edit_config(n_layers=1), r"tensor layer.1.* is .*, and not there by config.json"),
    ("width", _edit_config(hidden_dim=88), r"tensor layer.0.ffn_in"),
    ("words", _edit_config(vocab_size=99), r"word_embeddings.weight is bfloat16 \[101, 48\], and bfloat16 \[99, 48\]"),
    ("labels", _edit_config(id2label={"0": "a"}, label2id=None), "tensor classifier"),
]  # fmt: skip


@pytest.fixture
def classifier(tiny: Callable[..., DistilBertConfig], tmp_path: Path) -> Path:
    """A packed int8 classifier."""
    packed.write(tmp_path, packed.of(made(tiny(num_labels=70), "DistilBertForSequenceClassification", dtype="int8")))
    return tmp_path


@pytest.mark.parametrize(("damage", "message"), [pytest.param(*rest, id=name) for name, *rest in DAMAGE])
def test_damage_is_found_on_opening(classifier: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(classifier)
    with pytest.raises(CheckpointError, match=message):
        opened(classifier, "DistilBertForSequenceClassification")


def test_a_crash_half_way_leaves_nothing_that_opens(
    classifier: Path, tiny: Callable[..., DistilBertConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(path: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(packed, "_digest", crash)
    with pytest.raises(KeyboardInterrupt):
        packed.write(classifier, packed.of(made(tiny())))
    with pytest.raises(OSError, match="has no weights"):
        opened(classifier)


def test_every_flipped_bit_is_found_by_check(classifier: Path, rng: np.random.Generator) -> None:
    packed.check(classifier)
    path = classifier / "packed.safetensors"
    intact = path.read_bytes()
    for at in rng.integers(0, len(intact), 20):
        _flip(int(at))(classifier)
        with pytest.raises(CheckpointError, match=r"is not what was packed.* pack the model again"):
            packed.check(classifier)
        path.write_bytes(intact)
    assert packed.check(classifier)["dtype"] == "int8"


def test_what_can_not_be_packed(tiny: Callable[..., DistilBertConfig], tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="must be on backend cpu or cuda, found 'reference'"):
        packed.write(tmp_path / "new", packed.of(made(tiny(), backend="reference")))
    assert not (tmp_path / "new").exists()
    model = made(tiny())
    model.save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(FileExistsError, match=r"holds model.safetensors.* give another folder"):
        packed.write(tmp_path, packed.of(model))
    assert (tmp_path / "config.json").read_text() == before


def test_native_call_checks_what_it_is_given(tiny: Callable[..., DistilBertConfig]) -> None:
    """Nothing may be read beyond the arrays."""
    encoder = made(tiny(), dtype="int8").backend._encoder
    good = {**encoder.linear_parts("layer.0.ffn_in"), "name": "new"}
    encoder.add_packed_linear(**good)
    rows = np.ones((2, 48), np.float32)
    np.testing.assert_array_equal(encoder.linear("new", rows), encoder.linear("layer.0.ffn_in", rows))
    with pytest.raises(RuntimeError, match="already"):
        encoder.add_packed_linear(**good)
    shifted = np.zeros(good["panels"].size + 1, np.uint8)[1:]
    for changes in (
        {"panels": good["panels"][:-1]},
        {"panels": np.concatenate([good["panels"], good["panels"][:256]])},
        {"panels": shifted},
        {"k": 52},
        {"k": 0},
        {"k": -48},
        {"k": 2**62},
        {"bias": good["bias"][:0]},
        {"bias": np.zeros(129, np.float32)},
        {"column_scales": good["column_scales"][1:]},
        {"offsets": good["offsets"][1:]},
        {"dtype": "float32"},
        {"dtype": "float32", "column_scales": good["column_scales"][:0], "offsets": good["offsets"][:0]},
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            encoder.add_packed_linear(**{**good, "name": "bad", **changes})
    for changes in ({"panels": good["panels"][::2]}, {"panels": good["panels"].view(np.int8)}, {"bias": rows[0] > 0}):
        with pytest.raises(TypeError):
            encoder.add_packed_linear(**{**good, "name": "bad", **changes})
    with pytest.raises(RuntimeError, match="no linear"):
        encoder.linear_parts("bad")


def test_views_keep_the_model_alive(tiny: Callable[..., DistilBertConfig], tmp_path: Path) -> None:
    packed.write(tmp_path, packed.of(made(tiny(), dtype="int8")))
    panels = opened(tmp_path).backend.linear_parts("layer.0.qkv")["panels"]
    expected = opened(tmp_path).weights.native_linear("layer.0.qkv")["panels"].copy()
    np.testing.assert_array_equal(panels, expected)


def test_command_line(folder_of: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = folder_of("DistilBertModel")
    out = tmp_path / "packed"
    done = CliRunner().invoke(app(), ["pack", str(checkpoint), str(out), "--dtype", "float32"])
    assert done.exit_code == 0
    facts = json.loads(done.stdout)
    assert (facts["folder"], facts["dtype"], facts["architecture"]) == (str(out), "float32", "DistilBertModel")
    assert facts["bytes"] == (out / "packed.safetensors").stat().st_size

    arguments = ["feature-extraction", "A cat sat on the mat.", "--model"]
    ours, theirs = (CliRunner().invoke(app(), ["run", *arguments, str(folder)]) for folder in (out, checkpoint))
    assert ours.exit_code == 0
    assert ours.stdout == theirs.stdout

    assert CliRunner().invoke(app(), ["info", "--model", str(out)]).exit_code == 0
    done = CliRunner().invoke(app(), ["verify", str(out)])
    assert (done.exit_code, done.stdout) == (0, f"ok: compared with {CHECKSUM}\n")
    assert distilrt.verify(out).reference == CHECKSUM

    _flip(-1)(out)
    for command, message in (
        (["verify", str(out)], "checksum differs"),
        (["pack", str(checkpoint), str(checkpoint)], "give another folder"),
        (["pack", str(checkpoint), str(tmp_path / "x"), "--dtype", "int3"], "int3"),
        (["pack", str(checkpoint), str(tmp_path / "x"), "--backend", "cuba"], "cuba"),
        (["pack", str(checkpoint), str(tmp_path / "x"), "--dtype", "float8"], "for cuda float32, float16"),
        (["pack", str(out), str(tmp_path / "x")], "is packed already"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(command)
        printed = capsys.readouterr()
        assert (stop.value.code, printed.out) == (2, "")
        assert message in printed.err


def test_command_line_calibrates(sentence_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts").write_text("A cat sat.\nIt rained all day long.\n")
    arguments = ["pack", str(sentence_encoder), str(tmp_path / "packed"), "--calibration", str(tmp_path / "texts")]
    done = CliRunner().invoke(app(), arguments)
    assert done.exit_code == 0
    facts = json.loads(done.stdout)
    assert (facts["dtype"], facts["kept"]) == ("int8", [])
    assert facts["calibration"] == "2 of 2 texts of texts"
    done = CliRunner().invoke(app(), ["info", "--model", str(tmp_path / "packed"), "--json"])
    described = json.loads(done.stdout)["model"]
    assert (described["calibration"], described["kept"]) == (facts["calibration"], [])
    done = CliRunner().invoke(app(), ["verify", str(tmp_path / "packed")])
    assert done.exit_code == 0
    assert "kept in higher precision: none" in done.stdout
    (tmp_path / "texts").write_text("")
    for options, message in (
        ([], "has no text"),
        (["--dtype", "float32"], "is for float8 and int8, found float32"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, *options])
        assert stop.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())
