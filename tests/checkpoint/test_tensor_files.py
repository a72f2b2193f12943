"""Reading and writing safetensors: zero copies, exact conversions, little memory, damaged files; bfloat16."""

from __future__ import annotations

import gc
import json
import os
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
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.tensor_files import (
    FLOAT_DTYPES,
    SafetensorsFile,
    Stored,
    as_float32,
    to_bfloat16,
    write_safetensors,
)
from distilrt.checkpoint.weight_files import open_tensors
from distilrt.errors import CheckpointError
from tests.checkpoint.reference_folders import (
    DTYPES,
    opened_file,
    random_tensors,
    write_header,
)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_float32_is_a_read_only_view_of_the_map(tmp_path: Path) -> None:
    save_file(
        {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float32)}, tmp_path / "model.safetensors"
    )
    weights = opened_file(tmp_path)
    array = weights["a"]
    assert array.dtype == np.float32
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert np.shares_memory(array, weights["a"])
    assert not array.flags.writeable
    assert not array.flags.owndata
    assert array.flags.aligned
    file = SafetensorsFile(tmp_path / "model.safetensors")
    mapped = np.frombuffer(file._map, np.uint8)
    assert np.shares_memory(file.load("a"), mapped)
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_values_equal_torchs_conversion(tmp_path: Path, dtype: str, form: str) -> None:
    tensors = random_tensors(DTYPES[dtype])
    if form == "safetensors":
        safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    else:
        torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=form == "zip")
    weights = opened_file(tmp_path)
    assert weights.dtype == dtype
    assert set(weights) == {"a", "b"}
    assert len(weights) == 2
    assert "a" in weights
    assert "c" not in weights
    stored, _ = open_tensors(Source(tmp_path))
    for name, tensor in tensors.items():
        array, expected = stored[name].load(), tensor.to(torch.float32).numpy()
        assert array.dtype == np.float32
        assert array.tobytes() == expected.tobytes()
    with pytest.raises(KeyError):
        weights["c"]
    weights.release()
    assert weights["a"].tobytes() == tensors["a"].to(torch.float32).numpy().tobytes()


def test_unaligned_float32_is_copied(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
    header += b" " * (1 + -len(header) % 4)
    write_header(tmp_path / "model.safetensors", header, np.array([1, 2, 3], np.float32).tobytes())
    array = opened_file(tmp_path)["a"]
    assert array.tolist() == [1, 2, 3]
    assert array.flags.aligned


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_memory_stays_bounded_over_a_float16_file(tmp_path: Path, form: str) -> None:
    tensors = {str(i): torch.full((1000, 1000), i, dtype=torch.float16) for i in range(30)}
    if form == "safetensors":
        safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    else:
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    del tensors
    gc.collect()
    weights = opened_file(tmp_path)
    before, peak = resident_bytes(), 0
    for name, array in weights.items():
        assert array[0, 0] == array[-1, -1] == int(name)
        del array
        peak = max(peak, resident_bytes())
        if form == "bin":
            weights.release()
    assert peak - before < 20e6  # the file is 60 MB, all of it as float32 120 MB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_release_gives_mapped_pages_back(tmp_path: Path, form: str) -> None:
    if form == "safetensors":
        save_file({"a": np.ones(10_000_000, np.float32)}, tmp_path / "model.safetensors")
    else:
        torch.save({"a": torch.ones(10_000_000)}, tmp_path / "pytorch_model.bin")
    weights = opened_file(tmp_path)
    before = resident_bytes()
    assert weights["a"].sum() == 10_000_000
    assert resident_bytes() - before > 30e6
    weights.release()
    gc.collect()
    assert resident_bytes() - before < 5e6
    assert weights["a"].sum() == 10_000_000


def test_closed_without_garbage_collection(tmp_path: Path) -> None:
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    gc.disable()
    try:
        weights = opened_file(tmp_path)
        assert str(tmp_path) in Path("/proc/self/maps").read_text()
        del weights
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    finally:
        gc.enable()


def test_truncated_safetensors_at_every_kind_of_place(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones((3, 4), np.float32), "b": np.ones(5, np.float32)}, path)
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 60, len(whole) - 69, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated or damaged") as caught:
            opened_file(tmp_path)
        assert str(path) in str(caught.value)
    path.write_bytes(whole + b"x")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        opened_file(tmp_path)


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
        opened_file(tmp_path)


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
    rounded = as_float32(to_bfloat16(values), "bfloat16")
    np.testing.assert_array_equal(rounded, torch.from_numpy(values).bfloat16().float().numpy())
    np.testing.assert_array_equal(as_float32(to_bfloat16(rounded), "bfloat16"), rounded)
