"""The weights of a checkpoint: the tensors of all its files, exactly as stored, or as float32 arrays by name.

It knows which files there may be (and `distilrt.checkpoint.tensor_files` their formats) but no model: which tensors
there should be, and what they are called, is `distilrt.checkpoint.checkpoint`'s business. Imports h5py only to read an
`.h5`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt.checkpoint.h5 import H5File, TorchNames
from distilrt.checkpoint.json_files import read_object
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.tensor_files import (
    FLOAT_DTYPES,
    FloatArray,
    PickleFile,
    SafetensorsFile,
    Stored,
    TensorFile,
    TensorsInMemory,
    refuse_impostor,
)
from distilrt.errors import CheckpointError


def _open_safetensors(path: Path) -> TensorFile:
    file = SafetensorsFile(path)
    return TorchNames(file) if file.written_by == "tf" else file


def _open_h5(path: Path) -> TensorFile:
    refuse_impostor(path)
    return TorchNames(H5File(path))


_FORMATS: tuple[tuple[str, Callable[[Path], TensorFile]], ...] = (
    ("model.safetensors", _open_safetensors),
    ("model.safetensors.index.json", _open_safetensors),
    ("pytorch_model.bin", PickleFile),
    ("pytorch_model.bin.index.json", PickleFile),
    ("tf_model.h5", _open_h5),
)
WEIGHT_FILES = tuple(name for name, _ in _FORMATS)


def open_tensors(source: Source, use_safetensors: bool | None = None) -> tuple[dict[str, Stored], Path]:
    """Open the weights of a checkpoint, of the first format that it has.

    Args:
        source: where the checkpoint is.
        use_safetensors: True: of the formats only safetensors; False: only the others.

    Returns:
        Every tensor by its name in the files; and the weights file, or the index of the shards.

    Raises:
        OSError: there are no weights in a known format, or a shard is missing.
        CheckpointError: a file is damaged, or was refused because it would run code.
        ImportError: a `.bin` without torch, or an `.h5` without h5py.
    """
    formats = [(name, reader) for name, reader in _FORMATS if use_safetensors in (None, reader is _open_safetensors)]
    for filename, reader in formats:
        path = source.file(filename)
        if path is not None:
            opened = _open_shards(source, path, reader) if path.suffix == ".json" else stored_in(reader(path))
            return opened, path
    looked = ", ".join(name for name, _ in formats)
    raise FileNotFoundError(f"{source} has no weights: looked for {looked}. Other formats must be converted to "
                            "safetensors; if the network is not to be used, they must all be cached")  # fmt: skip


def stored_in(file: TensorFile) -> dict[str, Stored]:
    """Every tensor of a file by its name."""
    return {name: Stored(file, name, *spec) for name, spec in file.specs.items()}


def _open_shards(source: Source, index: Path, reader: Callable[[Path], TensorFile]) -> dict[str, Stored]:
    refuse_impostor(index)
    shard_of = read_object(index).get("weight_map")
    if not isinstance(shard_of, dict):
        raise CheckpointError(f"{index} is not an index of shards: weight_map must map the names of tensors to files, "
                              f"found {type(shard_of).__name__}")  # fmt: skip
    for shard in shard_of.values():
        if not _is_file_name(shard):
            raise CheckpointError(f"{index} names {shard!r} as a shard; a shard is a plain file name beside the index")
    shards: dict[str, dict[str, Stored]] = {}
    for shard in dict.fromkeys(shard_of.values()):
        path = source.file(shard)
        if path is None:
            raise FileNotFoundError(f"{index} needs the shard {shard}, which is not there; fetch the whole checkpoint")
        shards[shard] = stored_in(reader(path))
    lost = next((name for name, shard in shard_of.items() if name not in shards[shard]), None)
    if lost is not None:
        raise CheckpointError(f"{index} says that {lost} is in {shard_of[lost]}, which has no such tensor")
    return {name: shards[shard][name] for name, shard in shard_of.items()}


def _is_finite(array: FloatArray) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum is finite only where all numbers are, and takes a fraction of the time of looking at each.
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def _is_file_name(value: object) -> bool:
    """Whether it names a file of a folder, and no other place."""
    plain = isinstance(value, str) and Path(value).name == value and value not in ("", "..")
    return plain and "\0" not in str(value) and len(str(value).encode()) <= 255


class Weights(Mapping[str, FloatArray]):
    """Named float32 arrays, read from their files at each access.

    A float32 tensor of a file is a read-only view of its memory map; one of another dtype is converted anew at every
    access and not kept, so a loop over all never holds more than one. Arrays from memory are returned as they are.
    The first access to a tensor checks that all of its numbers are finite, while its pages are in the cache anyway, and
    raises `CheckpointError` otherwise. Pickling takes the numbers along, in the dtype they are stored in.

    Args:
        entries: canonical name to tensor of a file, or float32 array.
        source: where they come from, for messages.

    Attributes:
        dtype: "float32", "float16", "bfloat16" or "float64": what most of the numbers in the files are.
        source: path of the weights file or of its index of shards; "memory" for arrays from memory.
    """

    def __init__(self, entries: Mapping[str, Stored | FloatArray], source: str = "memory") -> None:
        self._entries = dict(entries)
        self._finite: set[str] = set()
        self.source = source
        sizes = dict.fromkeys(FLOAT_DTYPES, 0)
        for name, entry in self._entries.items():
            if isinstance(entry, Stored):
                sizes[entry.dtype] += math.prod(entry.shape)
            elif entry.dtype != np.float32:
                raise TypeError(f"weights from memory must be float32, found {entry.dtype} for {name}")
        self.dtype = max(FLOAT_DTYPES, key=lambda dtype: sizes[dtype])

    def __getitem__(self, name: str) -> FloatArray:
        entry = self._entries[name]
        array = entry.load() if isinstance(entry, Stored) else entry
        if name not in self._finite:
            if not _is_finite(array):
                raise CheckpointError(f"tensor {name} of {self.source} holds NaN or infinity: its training diverged or "
                                      "the file is damaged; use another checkpoint")  # fmt: skip
            self._finite.add(name)
        return array

    def __reduce__(self) -> tuple[Any, ...]:
        raws: dict[int, tuple[str, npt.NDArray[Any]]] = {}  # by tensor, for tied ones are one
        for name, entry in self._entries.items():
            raws.setdefault(id(entry), self.raw(name))
        file = TensorsInMemory({name: raws[id(entry)] for name, entry in self._entries.items()})
        return Weights, (stored_in(file), self.source)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def raw(self, name: str) -> tuple[str, npt.NDArray[Any]]:
        """The dtype that a tensor is stored in, and its numbers as stored; bfloat16 ones as uint16."""
        entry = self._entries[name]
        return (entry.dtype, entry.raw()) if isinstance(entry, Stored) else ("float32", entry)

    def release(self) -> None:
        """Give the files' mapped pages back to the operating system; the next access just reads them again."""
        for file in {entry.file for entry in self._entries.values() if isinstance(entry, Stored)}:
            file.release()
