"""Files of tensors: what every format gives, and safetensors, which is memory-mapped and also written.

PyTorch's pickle is in `distilrt.checkpoint.pickle_file`, and Keras's HDF5 in `distilrt.checkpoint.h5_file`.
`distilrt.checkpoint.weight_files` knows which files make a checkpoint.
"""

from __future__ import annotations

import json
import math
import mmap
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from distilrt.checkpoint.files import replacing
from distilrt.errors import CheckpointError

FloatArray = npt.NDArray[np.float32]

# dtype name -> (name in a safetensors header, how NumPy holds the stored bits)
_FLOATS = {"float32": ("F32", "<f4"), "float16": ("F16", "<f2"), "bfloat16": ("BF16", "<u2"), "float64": ("F64", "<f8")}
FLOAT_DTYPES = tuple(_FLOATS)
# float8 is E4M3.
_OTHERS = {"uint8": ("U8", "|u1"), "int8": ("I8", "|i1"), "int32": ("I32", "<i4"), "float8": ("F8_E4M3", "|u1")}
_STORED = _FLOATS | _OTHERS
_FROM_HEADER = {header: name for name, (header, _) in _STORED.items()}

_BLOCK = 1 << 16  # numbers rounded at a time, so that what is between lies in the cache and takes no memory

# dtype, one of FLOAT_DTYPES or else the file's own word for another type; and shape
Spec = tuple[str, tuple[int, ...]]


class TensorFile(ABC):
    """An open file of tensors by their names in the file; each format has its own subclass.

    Attributes:
        specs: the dtype and shape of each tensor.
        written_by: "tf" where the tensors are TensorFlow's variables; else another framework, or None.
        origin: what an error about a tensor calls the file, where that is not the checkpoint's own; else None.
    """

    specs: dict[str, Spec]
    written_by: str | None = None
    origin: str | None = None

    @abstractmethod
    def raw(self, name: str) -> npt.NDArray[Any]:
        """The stored numbers, read-only and without a copy where possible; bfloat16 as uint16."""

    def load(self, name: str) -> FloatArray:
        """The numbers as float32; a view of the file where it holds aligned float32."""
        return as_float32(self.raw(name), self.specs[name][0])

    def release(self) -> None:  # noqa: B027  # not abstract, since most formats map nothing
        """Give the file's mapped pages back to the operating system, if there are any; the next access reads them."""

    def tensors(self) -> dict[str, Stored]:
        """Every tensor by its name."""
        return {name: Stored(self, name, *spec) for name, spec in self.specs.items()}


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor in its file; `shape` is that after a matrix that is `transposed` has been turned."""

    file: TensorFile
    name: str
    dtype: str
    shape: tuple[int, ...]
    transposed: bool = False

    def raw(self) -> npt.NDArray[Any]:
        """The stored numbers, see `TensorFile.raw`."""
        array = self.file.raw(self.name)
        return array.T if self.transposed else array

    def load(self) -> FloatArray:
        """The numbers as float32, see `TensorFile.load`."""
        array = self.file.load(self.name)
        return np.ascontiguousarray(array.T) if self.transposed else array


class TensorsInMemory(TensorFile):
    """Tensors as a file gives them: of each the dtype, as in `write_safetensors`, and the stored numbers."""

    def __init__(self, tensors: Mapping[str, tuple[str, npt.NDArray[Any]]]) -> None:
        self._arrays = tensors
        self.specs = {name: (dtype, array.shape) for name, (dtype, array) in tensors.items()}

    def raw(self, name: str) -> npt.NDArray[Any]:
        """The array itself."""
        return self._arrays[name][1]


class SafetensorsFile(TensorFile):
    """A memory-mapped safetensors file; the library checks the header, the data is mapped here."""

    def __init__(self, path: Path) -> None:
        refuse_impostor(path)
        try:
            with safe_open(path, framework="np") as opened:
                self.written_by = (opened.metadata() or {}).get("format")
        except SafetensorError as error:
            raise CheckpointError(
                f"{path} is not a whole safetensors file: {error}. It is truncated or damaged; fetch it again"
            ) from error
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(self._map[:8], "little")
        header = json.loads(self._map[8:start])
        header.pop("__metadata__", None)
        self._span = {name: [start + at for at in entry["data_offsets"]] for name, entry in header.items()}
        self.specs = {
            name: (_FROM_HEADER.get(entry["dtype"], entry["dtype"]), tuple(entry["shape"]))
            for name, entry in header.items()
        }

    def raw(self, name: str) -> npt.NDArray[Any]:
        """A read-only view of the map."""
        dtype, shape = self.specs[name]
        return np.frombuffer(self._map, _STORED[dtype][1], math.prod(shape), self._span[name][0]).reshape(shape)

    def load(self, name: str) -> FloatArray:
        """The numbers as float32; the pages of numbers that were converted are given back."""
        raw = self.raw(name)
        array = as_float32(raw, self.specs[name][0])
        if array is not raw:
            start, end = self._span[name]
            self._drop(start - start % mmap.PAGESIZE, end)
        return array

    def release(self) -> None:
        """Give all pages back."""
        self._drop(0, len(self._map))

    def _drop(self, start: int, end: int) -> None:
        if hasattr(mmap, "MADV_DONTNEED") and end > start:
            self._map.madvise(mmap.MADV_DONTNEED, start, end - start)


def refuse_impostor(path: Path) -> None:
    """Name the two kinds of file that often lie where weights should be."""
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` in its folder")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{path} is a web page, not weights: a failed download; fetch it again")


def as_stored(array: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Numbers as a file holds them in a dtype: rounded to it, ties to even; of bfloat16 and float8 their bits."""
    if dtype == "bfloat16":
        return to_bfloat16(array)
    if dtype == "float8":
        return _to_e4m3(array)
    return np.asarray(array, _STORED[dtype][1])


def to_bfloat16(array: FloatArray) -> npt.NDArray[np.uint16]:
    """Numbers rounded to bfloat16, ties to even, as their bits; a NaN stays one."""
    found = np.empty(np.shape(array), np.uint16)
    flat, out = np.ascontiguousarray(array, np.float32).reshape(-1), found.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        part = flat[start : start + _BLOCK]
        bits = part.view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        out[start : start + _BLOCK] = np.where(np.isnan(part), 0x7FC0, rounded)
    return found


def _to_e4m3(codes: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The bits of numbers that E4M3 has.

    Of a number 2^8 times smaller, float16 has the same bits behind the sign, and seven more that are 0.
    """
    bits = np.ldexp(codes.astype(np.float16), -8).view(np.uint16)
    return (bits >> 8 & 0x80 | bits >> 7 & 0x7F).astype(np.uint8)


def as_float32(raw: npt.NDArray[Any], dtype: str) -> FloatArray:
    """Numbers as stored, of bfloat16 the bits, as float32; aligned float32 itself."""
    if dtype == "bfloat16":
        wide = raw.astype(np.uint32, order="C")
        wide <<= 16
        return wide.view(np.float32)
    return np.require(raw, np.float32, ["C_CONTIGUOUS", "ALIGNED"])


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, npt.NDArray[Any]]]) -> None:
    """Write a safetensors file that torch-side readers accept, and only then put it in place of `path`.

    Args:
        tensors: name to dtype, one of FLOAT_DTYPES, float8, int8, uint8 or int32, and the numbers in it as `as_stored`
            gives them.
    """
    # By hand, since NumPy has no bfloat16 to give the library's writer, and older ones of it copy all tensors at once.
    # Tensors of whole cache lines come first, then wide types: the former lie at cache lines, and all are aligned.
    order = sorted(tensors, key=lambda name: (tensors[name][1].nbytes % 64 > 0, -tensors[name][1].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        dtype, array = tensors[name]
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _STORED[dtype][0], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            dtype, array = tensors[name]
            file.write(np.ascontiguousarray(array, _STORED[dtype][1]).data)
