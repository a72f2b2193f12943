"""Damaged and malicious checkpoints load, or are refused with an error that names the file: never another exception.

A seeded mutator edits one file of a good folder at a time: JSON by its values and as bytes, weights as bytes and by
their header.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import random
import resource
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from distilrt.checkpoint import packed
from distilrt.checkpoint.weights import random_weights, save_checkpoint
from distilrt.errors import CheckpointError
from distilrt.model import models
from distilrt.model.config import DistilBertConfig
from tests.checkpoint.test_h5_file import variables, write_h5

NAME = "DistilBertForSequenceClassification"
MODEL = models.DistilBertForSequenceClassification
NASTY: list[Any] = [None, -1, 0, 1, 3, 10**9, 10**18, 2**64, -(2**63), 1e300, float("nan"), float("inf"), 1.5, True,
                    False, "", "x", "1", "a" * 5000, [], {}, [1], [[]], {"a": 1}, [None], "../../etc/passwd", "\ud800",
                    "\0"]  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all items of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(*path, key), *_places(item, (*path, key))]]


def mutated_json(content: bytes, rng: random.Random) -> bytes:
    """One or two items replaced, removed, repeated or shifted."""
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 2))):
        places = _places(value)
        if not places:
            break
        *path, last = rng.choice(places)
        parent = value
        for key in path:
            parent = parent[key]
        kind = rng.randrange(4)
        if kind == 0:
            del parent[last]
        elif kind == 1 and isinstance(parent[last], int | float):
            parent[last] = rng.choice((parent[last] + 1, parent[last] - 1, parent[last] * 10**9, str(parent[last])))
        elif kind == 2 and isinstance(parent, dict):
            parent[rng.choice(("x", "", "dim", "vocab_size", "extra", "__metadata__"))] = copy.deepcopy(parent[last])
        else:
            parent[last] = copy.deepcopy(rng.choice(NASTY))
    return json.dumps(value).encode()


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cut, lengthened, or with some bytes flipped, set or removed."""
    kind, found = rng.randrange(5), bytearray(content)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1:
        return content + rng.randbytes(rng.randrange(1, 100))
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        # Most of the structure of a file is at its start and its end.
        span = rng.choice((len(found), min(2048, len(found))))
        at = rng.randrange(span) if rng.random() < 0.7 else len(found) - 1 - rng.randrange(span)
        found[at : at + 1] = (b"", bytes([found[at] ^ 1 << rng.randrange(8)]), rng.randbytes(1))[kind - 2]
    return bytes(found)


def mutated_text(content: bytes, rng: random.Random) -> bytes:
    """JSON, by its values or as bytes, or nested without end."""
    if rng.random() < 0.02:
        return rng.choice((b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b"9" * 5000, b"\xff\xfe{"))
    return (mutated_json if rng.random() < 0.8 else mutated_bytes)(content, rng)


def mutated_safetensors(content: bytes, rng: random.Random) -> bytes:
    """As bytes, by its header, or by the length of that."""
    size = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + size], content[8 + size :]
    kind = rng.randrange(4)
    if kind == 0:
        return mutated_bytes(content, rng)
    if kind == 1:
        length = rng.choice((0, 1, size - 1, size + 1, 2 * size, 2**32, 2**63, 2**64 - 1, len(content)))
        return length.to_bytes(8, "little") + header + data
    values = json.loads(header)
    entry = values[rng.choice([name for name in values if name != "__metadata__"])]
    if kind == 2:
        entry["shape"] = rng.choice(([0], [], [2**40, 2**40], [1] * 100, [2**63], entry["shape"], entry["shape"]))
        entry["dtype"] = rng.choice(("F32", "F64", "BF16", "I8", "U8"))
    header = json.dumps(values).encode() if kind == 2 else mutated_json(header, rng)
    return len(header).to_bytes(8, "little") + header + data


FILES: dict[str, tuple[str, Callable[[bytes, random.Random], bytes]]] = {
    "config": ("config.json", mutated_text),
    "safetensors": ("model.safetensors", mutated_safetensors),
    "shards": ("model.safetensors.index.json", mutated_text),
    "bin": ("pytorch_model.bin", mutated_bytes),
    "h5": ("tf_model.h5", mutated_bytes),
    "index": ("packed.json", mutated_text),
    "panels": ("packed.safetensors", mutated_safetensors),
}


def good_folder(kind: str, folder: Path) -> None:
    """A small checkpoint of the kind that has the file."""
    sizes: dict[str, Any] = {"dim": 32, "n_heads": 2, "n_layers": 1, "hidden_dim": 40, "vocab_size": 31,
                             "max_position_embeddings": 16, "id2label": {"0": "no", "1": "yes", "2": "perhaps"},
                             "architectures": [NAME]}  # fmt: skip
    config = DistilBertConfig.from_dict(sizes)
    weights = dict(random_weights(config, NAME))
    if kind in ("index", "panels"):
        packed.write(folder, packed.of(MODEL(config, weights, backend="cpu", dtype="int8")))
        return
    save_checkpoint(folder, config, weights, NAME)
    if kind in ("config", "safetensors"):
        return
    whole = folder / "model.safetensors"
    if kind == "shards":
        whole.rename(folder / "one.safetensors")
        names = MODEL(config, weights, backend="cpu").state_dict()
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, "one.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return
    whole.unlink()
    if kind == "bin":
        torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, folder / "pytorch_model.bin")
    else:
        write_h5(folder / "tf_model.h5", variables(weights), "tf_distil_bert_for_sequence_classification")


def faults(kind: str, folder: Path, seed: int, count: int) -> tuple[Counter[str], list[str]]:
    """Load `count` mutations of one file of a folder of its own; how they ended, and what must not be."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    good_folder(kind, folder)
    name, mutate = FILES[kind]
    content, rng = (folder / name).read_bytes(), random.Random(seed)
    ends: Counter[str] = Counter()
    found = []
    for number in range(count):
        # A new file, for the old one may be mapped still.
        (folder / name).unlink()
        (folder / name).write_bytes(mutate(content, rng))
        try:
            output = MODEL.from_pretrained(folder, backend="cpu", num_threads=1)([[2, 3, 4]], return_dict=True)
            ends["loaded"] += 1
            assert output.logits.shape == (1, 3)
        except (CheckpointError, FileNotFoundError) as error:
            ends["refused"] += 1
            if "config" not in str(error) and str(folder) not in str(error):
                found.append(f"mutation {number} of {name} gives an error that names no file: {error}")
        except BaseException as error:
            found.append(f"mutation {number} of {name} gives {type(error).__name__}: {error}")
    return ends, found


@pytest.mark.parametrize("kind", FILES)
def test_some_mutations_of_every_file(kind: str, tmp_path: Path) -> None:
    ends, found = faults(kind, tmp_path / "model", 0, 60)
    assert found == []
    assert min(ends.values()) > 0


def _limited(*arguments: Any) -> tuple[Counter[str], list[str]]:
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    return faults(*arguments)


@pytest.mark.whole
@pytest.mark.parametrize("kind", FILES)
def test_thousands_of_mutations_of_every_file(kind: str, tmp_path: Path) -> None:
    """In a process of its own, which a crash or too much memory ends."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        ends, found = pool.submit(_limited, kind, tmp_path / "model", 1, 1600).result(timeout=1200)
    assert found == []
    assert min(ends["loaded"], ends["refused"]) > 20
