"""Files of tensors that are damaged, dangerous or something else; what is written; bfloat16."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
from safetensors.numpy import load_file, save_file

from distilrt.checkpoint.pickle_file import PickleFile
from distilrt.checkpoint.tensor_files import (
    SafetensorsFile,
    Stored,
    from_bfloat16,
    to_bfloat16,
    write_safetensors,
)
from distilrt.errors import CheckpointError
from tests.checkpoint.test_weights import opened, write_header


def test_truncated_safetensors_at_every_kind_of_place(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones((3, 4), np.float32), "b": np.ones(5, np.float32)}, path)
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 60, len(whole) - 69, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated or damaged") as caught:
            opened(tmp_path)
        assert str(path) in str(caught.value)
    path.write_bytes(whole + b"x")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        opened(tmp_path)


F32_PAIR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b'{"a":', 0),
        (b"[1, 2]", 0),
        (json.dumps({"a": F32_PAIR, "b": F32_PAIR | {"data_offsets": [4, 12]}}).encode(), 12),
        (json.dumps({"a": F32_PAIR, "b": F32_PAIR | {"data_offsets": [12, 20]}}).encode(), 20),
        (json.dumps({"a": F32_PAIR | {"shape": [3]}}).encode(), 8),
        (json.dumps({"a": F32_PAIR | {"dtype": "F31"}}).encode(), 8),
    ],
    ids=["json", "list", "overlap", "hole", "shape", "dtype"],
)
def test_invalid_headers(tmp_path: Path, header: bytes, data: int) -> None:
    write_header(tmp_path / "model.safetensors", header, bytes(data))
    with pytest.raises(CheckpointError, match=r"model.safetensors is not a whole safetensors file"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page, not weights"),
        (b"no weights at all, just words", "is not a (whole|plain|index)|is not valid JSON"),
    ],
    ids=["lfs", "html", "garbage"],
)
def test_impostors(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        opened(tmp_path)
    assert str(tmp_path / name) in str(caught.value)


class RunsCode:
    """Pickles as a call that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    path, trace = tmp_path / "pytorch_model.bin", tmp_path / "was-run"
    state = {"a": torch.zeros(2), "b": RunsCode(trace)}
    if form == "plain":
        path.write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"refused.*would run code stored in it.*Use model.safetensors") as caught:
        opened(tmp_path)
    assert "weights_only" not in str(caught.value)  # torch's own advice is to switch the protection off
    assert not trace.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_bin(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for length in (0, 10, 200, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is not a whole PyTorch file"):
            opened(tmp_path)


@pytest.mark.parametrize("state", [[torch.zeros(1)], {"state_dict": {"a": torch.zeros(1)}}, {"a": 3}])
def test_bin_that_is_no_state_dict(tmp_path: Path, state: Any) -> None:
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="must hold a flat dict of tensors"):
        opened(tmp_path)


def test_bin_without_a_fit_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ImportError, match=r"needs torch 2.6 or newer, found 2.5.1"):
        opened(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"needs torch: pip install .* convert the checkpoint to safetensors"):
        opened(tmp_path)


def test_written_file_reads_back_in_the_library(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors: dict[str, tuple[str, npt.NDArray[Any]]] = {
        "half": ("float16", np.arange(3, dtype=np.float16)),
        "single": ("float32", np.arange(6, dtype=np.float32).reshape(2, 3).T),
        "brain": ("bfloat16", np.array([0x3F80, 0x4000, 0xC040], np.uint16)),
        "double": ("float64", np.array(0.1)),
    }
    write_safetensors(path, tensors)
    read = safetensors.torch.load_file(path)
    assert {name: str(tensor.dtype) for name, tensor in read.items()} == {
        n: f"torch.{d}" for n, (d, _) in tensors.items()
    }
    assert read["single"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert read["brain"].tolist() == [1, 2, -3]
    assert read["half"].tolist() == [0, 1, 2]
    assert read["double"].item() == 0.1
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt"}
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": ("float32", np.ones(2, np.float32))})

    def crash(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(path, {"a": ("float32", np.zeros(2, np.float32))})
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert load_file(path)["a"].tolist() == [1, 1]


def test_unknown_dtype_keeps_the_files_word(tmp_path: Path) -> None:
    save_file({"a": np.zeros(2, np.int8)}, tmp_path / "model.safetensors")
    torch.save({"a": torch.zeros(2, dtype=torch.int8)}, tmp_path / "pytorch_model.bin")
    for file in (SafetensorsFile(tmp_path / "model.safetensors"), PickleFile(tmp_path / "pytorch_model.bin")):
        assert Stored(file, "a", *file.specs["a"]).dtype in ("I8", "int8")


def test_bfloat16_is_rounded_as_torch_does() -> None:
    bits = np.random.default_rng().integers(0, 2**32, 100_000, dtype=np.uint32)
    ties = (bits[:1000] & 0xFFFF0000) | 0x8000
    values = np.concatenate([bits, ties, np.array([0, 2**31, 0x7F7FFFFF, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)])
    values = values.view(np.float32)
    rounded = from_bfloat16(to_bfloat16(values))
    np.testing.assert_array_equal(rounded, torch.from_numpy(values).bfloat16().float().numpy())
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(rounded)), rounded)
