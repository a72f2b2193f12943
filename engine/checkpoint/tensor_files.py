"""One file of tensors, memory-mapped: safetensors and PyTorch's pickle, read as stored or as float32, and written.

Keras's HDF5 is in `distilrt.checkpoint.h5`; which files make a checkpoint is `distilrt.checkpoint.weights`' business.
Imports torch only to read a `.bin`.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from distilrt.errors import CheckpointError

FloatArray = npt.NDArray[np.float32]

# dtype name -> (name in a safetensors header, how NumPy holds the stored bits)
_FLOATS = {"float32": ("F32", "<f4"), "float16": ("F16", "<f2"), "bfloat16": ("BF16", "<u2"), "float64": ("F64", "<f8")}
FLOAT_DTYPES = tuple(_FLOATS)
_STORED = _FLOATS | {"uint8": ("U8", "|u1"), "int32": ("I32", "<i4")}
_FROM_HEADER = {header: name for name, (header, _) in _STORED.items()}

# dtype, one of FLOAT_DTYPES or else the file's own word for another type; and shape
Spec = tuple[str, tuple[int, ...]]


class TensorFile(Protocol):
    """An open file of tensors, by their names in the file."""

    specs: dict[str, Spec]

    def raw(self, name: str) -> npt.NDArray[Any]:
        """The stored numbers, read-only and without a copy where possible; bfloat16 as uint16."""
        ...

    def load(self, name: str) -> FloatArray:
        """The numbers as float32; a view of the file where it holds aligned float32."""
        ...

    def release(self) -> None:
        """Give the file's pages back to the operating system; the next access reads them again."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor in its file."""

    file: TensorFile
    name: str
    dtype: str
    shape: tuple[int, ...]

    def raw(self) -> npt.NDArray[Any]:
        """The stored numbers, see `TensorFile.raw`."""
        return self.file.raw(self.name)

    def load(self) -> FloatArray:
        """The numbers as float32, see `TensorFile.load`."""
        return self.file.load(self.name)


class TensorsInMemory:
    """Tensors as a file gives them: of each the dtype, one of FLOAT_DTYPES, uint8 or int32, and the stored numbers."""

    def __init__(self, tensors: Mapping[str, tuple[str, npt.NDArray[Any]]]) -> None:
        self._tensors = tensors
        self.specs: dict[str, Spec] = {name: (dtype, array.shape) for name, (dtype, array) in tensors.items()}

    def raw(self, name: str) -> npt.NDArray[Any]:
        """The array itself, see `TensorFile.raw`."""
        return self._tensors[name][1]

    def load(self, name: str) -> FloatArray:
        """The numbers as float32, see `TensorFile.load`."""
        return _as_float32(self.raw(name), self.specs[name][0])

    def release(self) -> None:
        """Nothing is kept that could be given back."""


class SafetensorsFile:
    """A memory-mapped safetensors file; the library checks the header, the data is mapped here."""

    def __init__(self, path: Path) -> None:
        refuse_impostor(path)
        try:
            with safe_open(path, framework="np") as opened:
                self.written_by = (opened.metadata() or {}).get("format")  # "pt", "tf" or another framework
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a whole safetensors file: {error}. It is truncated or damaged; "
                                  "fetch it again") from error  # fmt: skip
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(self._map[:8], "little")
        header = json.loads(self._map[8:start])
        header.pop("__metadata__", None)
        self._span = {name: [start + at for at in entry["data_offsets"]] for name, entry in header.items()}
        self.specs: dict[str, Spec] = {
            name: (_FROM_HEADER.get(entry["dtype"], entry["dtype"]), tuple(entry["shape"]))
            for name, entry in header.items()
        }

    def raw(self, name: str) -> npt.NDArray[Any]:
        """A read-only view of the map, see `TensorFile.raw`."""
        dtype, shape = self.specs[name]
        return np.frombuffer(self._map, _STORED[dtype][1], math.prod(shape), self._span[name][0]).reshape(shape)

    def load(self, name: str) -> FloatArray:
        """The numbers as float32, see `TensorFile.load`."""
        raw = self.raw(name)
        array = _as_float32(raw, self.specs[name][0])
        if array is not raw:
            start, end = self._span[name]
            self._drop(start - start % mmap.PAGESIZE, end)
        return array

    def release(self) -> None:
        """Unmap all pages from memory, see `TensorFile.release`."""
        self._drop(0, len(self._map))

    def _drop(self, start: int, end: int) -> None:
        if hasattr(mmap, "MADV_DONTNEED") and end > start:
            self._map.madvise(mmap.MADV_DONTNEED, start, end - start)


class PickleFile:
    """A PyTorch `.bin`, read without running code from it; memory-mapped unless in the format of before torch 1.6."""

    def __init__(self, path: Path) -> None:
        refuse_impostor(path)
        self._path = path
        with path.open("rb") as file:
            self._mapped = file.read(4) == b"PK\3\4"  # how torch tells its formats apart
        state = _read_pickle(path, self._mapped)
        self._state: Mapping[str, Any] | None = state
        self.specs: dict[str, Spec] = {
            name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in state.items()
        }

    def raw(self, name: str) -> npt.NDArray[Any]:
        """A read-only view of the tensor, see `TensorFile.raw`."""
        state = self._state  # another thread may release it meanwhile
        if state is None:
            state = self._state = _read_pickle(self._path, self._mapped)
        tensor, dtype = state[name].detach(), self.specs[name][0]
        if dtype == "bfloat16":
            import torch

            tensor = tensor.view(torch.int16)
        array: npt.NDArray[Any] = tensor.numpy().view(_FLOATS[dtype][1])
        array.flags.writeable = False
        return array

    def load(self, name: str) -> FloatArray:
        """The numbers as float32, see `TensorFile.load`."""
        return _as_float32(self.raw(name), self.specs[name][0])

    def release(self) -> None:
        """Close the map once the last view of it is gone; the next access opens it again."""
        if self._mapped:
            self._state = None


def _read_pickle(path: Path, mapped: bool) -> Mapping[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"reading {path} needs torch: pip install 'distilrt[torch]', or convert the checkpoint to "
                          "safetensors, which needs nothing more") from error  # fmt: skip
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        raise ImportError(f"reading {path} needs torch 2.6 or newer, found {torch.__version__}: older ones can be made "
                          "to run code from such a file; update torch, or convert to safetensors")  # fmt: skip
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        detail = str(error).partition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or "unknown content"
        raise CheckpointError(
            f"{path} was refused: it is not a plain pickle of tensors, and reading any other would run code stored in "
            f"it ({detail}). Use model.safetensors, from a source you trust"
        ) from error
    except Exception as error:  # a damaged file fails anywhere in torch's reader
        raise CheckpointError(f"{path} is not a whole PyTorch file: {type(error).__name__} {error}. It is truncated or "
                              "damaged; fetch it again") from error  # fmt: skip
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise CheckpointError(f"{path} must hold a flat dict of tensors, found other things in it; save the model's "
                              "state_dict() alone")  # fmt: skip
    for name, tensor in state.items():
        if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_neg():
            raise CheckpointError(f"tensor {name} of {path} is sparse, nested, without numbers or a view of another "
                                  "kind; save plain tensors")  # fmt: skip
    return state


def refuse_impostor(path: Path) -> None:
    """Name the two kinds of file that often lie where weights should be."""
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` in its folder")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{path} is a web page, not weights: a failed download; fetch it again")


def to_bfloat16(array: FloatArray) -> npt.NDArray[np.uint16]:
    """Numbers rounded to bfloat16, ties to even, as their bits; a NaN stays one."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> FloatArray:
    """The numbers that bits of bfloat16 stand for."""
    return _as_float32(bits, "bfloat16")


def _as_float32(raw: npt.NDArray[Any], dtype: str) -> FloatArray:
    if dtype == "bfloat16":
        wide = raw.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return np.require(raw, np.float32, ["C_CONTIGUOUS", "ALIGNED"])


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, npt.NDArray[Any]]]) -> None:
    """Write a safetensors file that torch-side readers accept, and only then put it in place of `path`.

    Args:
        tensors: name to dtype, one of FLOAT_DTYPES, uint8 or int32, and the numbers in it; bfloat16 ones as uint16.
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                dtype, array = tensors[name]
                file.write(np.ascontiguousarray(array, _STORED[dtype][1]).data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
