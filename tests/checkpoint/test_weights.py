"""Reading and writing tensor files: zero copies, exact conversions, little memory, and no code run from a pickle."""

from __future__ import annotations

import gc
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import save_file

from distilrt.checkpoint.source import Source
from distilrt.checkpoint.tensor_files import (
    FLOAT_DTYPES,
    SafetensorsFile,
)
from distilrt.checkpoint.weight_files import open_tensors
from distilrt.checkpoint.weights import Weights
from distilrt.errors import CheckpointError

DTYPES = {name: getattr(torch, name) for name in FLOAT_DTYPES}


def opened(folder: Path) -> Weights:
    stored, path = open_tensors(Source(folder))
    return Weights(stored, str(path))


def write_header(path: Path, header: bytes, data: bytes = b"") -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def random_tensors(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    odd = torch.tensor([0.0, -0.0, 1e-40, 3e-8, 65504.0, float("inf"), float("-inf")], dtype=torch.float64)
    return {"a": values.to(dtype), "b": odd.to(dtype)}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_float32_is_a_read_only_view_of_the_map(tmp_path: Path) -> None:
    save_file(
        {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float32)}, tmp_path / "model.safetensors"
    )
    weights = opened(tmp_path)
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
    weights = opened(tmp_path)
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


def test_bin_is_mapped_and_transposed_tensors_come_out_right(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    parameter = torch.nn.Parameter(base + 1)
    torch.save({"flat": base, "turned": base.T, "parameter": parameter}, tmp_path / "pytorch_model.bin")
    weights = opened(tmp_path)
    assert np.shares_memory(weights["flat"], weights["flat"])
    assert not weights["flat"].flags.writeable
    assert weights["turned"].tolist() == base.T.tolist()
    assert weights["turned"].flags.c_contiguous
    assert weights["parameter"].tolist() == parameter.tolist()


def test_unaligned_float32_is_copied(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
    header += b" " * (1 + -len(header) % 4)
    write_header(tmp_path / "model.safetensors", header, np.array([1, 2, 3], np.float32).tobytes())
    array = opened(tmp_path)["a"]
    assert array.tolist() == [1, 2, 3]
    assert array.flags.aligned


def test_dtype_is_that_of_most_numbers(tmp_path: Path) -> None:
    save_file({"a": np.zeros(5, np.float16), "b": np.zeros(4, np.float32)}, tmp_path / "model.safetensors")
    weights = opened(tmp_path)
    assert weights.dtype == "float16"
    assert weights.source == str(tmp_path / "model.safetensors")


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_refused(tmp_path: Path, dtype: str, number: float) -> None:
    tensors = {"whole": torch.full((3, 3), 6e4), "broken": torch.zeros(2, 70)}
    tensors["broken"][1, 66] = number
    safetensors.torch.save_file({n: t.to(DTYPES[dtype]) for n, t in tensors.items()}, tmp_path / "model.safetensors")
    weights = opened(tmp_path)
    assert weights["whole"].shape == (3, 3)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"tensor broken of .*model.safetensors holds NaN or infinity"):
            weights["broken"]


def test_finite_numbers_whose_sum_is_none_are_taken() -> None:
    assert Weights({"a": np.full(70, 3e38, np.float32)})["a"].size == 70


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_pickling_takes_the_numbers_along(tmp_path: Path, dtype: str) -> None:
    tensor = random_tensors(DTYPES[dtype])["a"]
    safetensors.torch.save_file({"a": tensor}, tmp_path / "model.safetensors")
    (stored,) = opened(tmp_path)._entries.values()
    again: Weights = pickle.loads(pickle.dumps(Weights({"a": stored, "tied": stored}, "somewhere")))
    (tmp_path / "model.safetensors").unlink()
    assert (again.dtype, again.source, again.raw("a")[0]) == (dtype, "somewhere", dtype)
    assert again["a"].tobytes() == tensor.float().numpy().tobytes()
    assert again.raw("tied")[1] is again.raw("a")[1]


def test_arrays_from_memory() -> None:
    array = np.ones(3, np.float32)
    weights = Weights({"a": array, "b": array})
    assert weights["a"] is array
    assert weights["b"] is array
    assert (weights.dtype, weights.source) == ("float32", "memory")
    weights.release()
    with pytest.raises(TypeError, match="must be float32, found float64 for a"):
        Weights({"a": np.ones(3)})  # type: ignore[dict-item]


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
    weights = opened(tmp_path)
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
    weights = opened(tmp_path)
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
        weights = opened(tmp_path)
        assert str(tmp_path) in Path("/proc/self/maps").read_text()
        del weights
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    finally:
        gc.enable()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_shards(tmp_path: Path, form: str) -> None:
    for shard, name in (("one", "a"), ("two", "b")):
        if form == "safetensors":
            save_file({name: np.full(2, ord(name), np.float32)}, tmp_path / f"{shard}.safetensors")
        else:
            torch.save({name: torch.full((2,), float(ord(name)))}, tmp_path / f"{shard}.bin")
    index = tmp_path / ("model.safetensors.index.json" if form == "safetensors" else "pytorch_model.bin.index.json")

    def write_index(content: Any) -> None:
        index.write_text(json.dumps(content))

    write_index({"metadata": {}, "weight_map": {"a": f"one.{form}", "b": f"two.{form}"}})
    weights = opened(tmp_path)
    assert {name: array.tolist() for name, array in weights.items()} == {"a": [97, 97], "b": [98, 98]}
    assert weights.source == str(index)

    write_index({"weight_map": {"a": f"one.{form}", "c": f"two.{form}"}})
    with pytest.raises(CheckpointError, match=f"says that c is in two.{form}, which has no such tensor"):
        opened(tmp_path)
    write_index({"weight_map": {"a": f"one.{form}", "b": f"three.{form}"}})
    with pytest.raises(OSError, match=f"needs the shard three.{form}, which is not there"):
        opened(tmp_path)
    outsiders: list[Any] = ["../one.safetensors", "/etc/passwd", "..", "", "a\0b", "a" * 300, 3, ["a"]]
    for outside in outsiders:
        write_index({"weight_map": {"a": outside}})
        with pytest.raises(CheckpointError, match="a plain file name beside the index"):
            opened(tmp_path)
    unfit: list[Any] = [[], {"weight_map": 3}, {}]
    for broken in unfit:
        write_index(broken)
        with pytest.raises(CheckpointError, match=r"is not an index of shards|must hold a JSON object"):
            opened(tmp_path)


def test_safetensors_come_before_bin(tmp_path: Path) -> None:
    save_file({"a": np.ones(1, np.float32)}, tmp_path / "model.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert opened(tmp_path)["a"] == 1


def test_no_weights_at_all(tmp_path: Path) -> None:
    (tmp_path / "flax_model.msgpack").write_bytes(b"flax")
    with pytest.raises(OSError, match=r"has no weights: looked for model.safetensors, .*converted to safetensors"):
        opened(tmp_path)
