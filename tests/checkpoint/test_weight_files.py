"""Which files hold the weights of a checkpoint: formats, shards, and files that only look like weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from distilrt.checkpoint.source import Source
from distilrt.checkpoint.weights import load_weights
from distilrt.errors import CheckpointError
from distilrt.model.config import DistilBertConfig
from tests.checkpoint.reference_folders import (
    MLM,
    SEQUENCE,
    assert_equal,
    opened,
    opened_file,
    reference,
)


def test_safetensors_come_before_bin(tmp_path: Path) -> None:
    save_file({"a": np.ones(1, np.float32)}, tmp_path / "model.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert opened_file(tmp_path)["a"] == 1


def test_no_weights_at_all(tmp_path: Path) -> None:
    (tmp_path / "flax_model.msgpack").write_bytes(b"flax")
    with pytest.raises(OSError, match=r"has no weights: looked for model.safetensors, .*converted to safetensors"):
        opened_file(tmp_path)


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
    weights = opened_file(tmp_path)
    assert {name: array.tolist() for name, array in weights.items()} == {"a": [97, 97], "b": [98, 98]}
    assert weights.source == str(index)

    write_index({"weight_map": {"a": f"one.{form}", "c": f"two.{form}"}})
    with pytest.raises(CheckpointError, match=f"says that c is in two.{form}, which has no such tensor"):
        opened_file(tmp_path)
    write_index({"weight_map": {"a": f"one.{form}", "b": f"three.{form}"}})
    with pytest.raises(OSError, match=f"needs the shard three.{form}, which is not there"):
        opened_file(tmp_path)
    outsiders: list[Any] = ["../one.safetensors", "/etc/passwd", "..", "", "a\0b", "a" * 300, 3, ["a"]]
    for outside in outsiders:
        write_index({"weight_map": {"a": outside}})
        with pytest.raises(CheckpointError, match="a plain file name beside the index"):
            opened_file(tmp_path)
    unfit: list[Any] = [[], {"weight_map": 3}, {}]
    for broken in unfit:
        write_index(broken)
        with pytest.raises(CheckpointError, match=r"is not an index of shards|must hold a JSON object"):
            opened_file(tmp_path)


def test_bin_and_hub_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--tiny" / "refs").mkdir()
    (tmp_path / "models--org--tiny" / "refs" / "main").write_text("0" * 40)
    model = reference(MLM)
    model.config.save_pretrained(snapshot)
    torch.save(model.state_dict(), snapshot / "pytorch_model.bin")
    config = DistilBertConfig.from_pretrained("org/tiny", cache_dir=tmp_path, local_files_only=True)
    weights = load_weights(Source("org/tiny", cache_dir=tmp_path, local_files_only=True), MLM, config)
    assert_equal(weights, model.state_dict())
    assert weights.source == str(snapshot / "pytorch_model.bin")
    with pytest.raises(OSError, match="not in the local cache"):
        load_weights(Source("org/tiny", cache_dir=tmp_path, local_files_only=True, revision="v2"), MLM, config)
    (snapshot / "pytorch_model.bin").unlink()
    with pytest.raises(OSError, match="has no weights"):
        load_weights(Source("org/tiny", cache_dir=tmp_path, local_files_only=True), MLM, config)


def test_sharded_by_the_reference(tmp_path: Path) -> None:
    model = reference(SEQUENCE)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    weights = opened(tmp_path, SEQUENCE)
    assert_equal(weights, model.state_dict())
    assert weights.source.endswith("model.safetensors.index.json")


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
        opened_file(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
