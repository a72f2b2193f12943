"""Packed folders: a model as the CPU backend holds it, memory-mapped, so that it opens at once and is never copied.

Beside `config.json` and the tokenizer's files lie `packed.safetensors`, with the panels of every linear layer under the
native encoder's names and all other tensors under their canonical ones; and `packed.json`, written last, which says how
the model is packed. Linear layers of an int8 model that are kept in higher precision are among the other tensors, in
bfloat16, and packed when the folder is opened: for bfloat16 where the instruction set has it, else for float32. The
file serves every instruction set. Nothing here computes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt import __version__
from distilrt.checkpoint import sentence_files
from distilrt.checkpoint.files import read_object, replacing
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.tensor_files import (
    FloatArray,
    SafetensorsFile,
    Spec,
    TensorFile,
    TensorsInMemory,
    to_bfloat16,
    write_safetensors,
)
from distilrt.checkpoint.weight_files import WEIGHT_FILES
from distilrt.checkpoint.weights import check_num_layers
from distilrt.errors import BackendError, CheckpointError
from distilrt.model.architecture import expected_shapes, linears
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS

VERSION = 2  # It changes with the layout of panels (csrc/pack-inl.h) and the meaning of scales (csrc/kernels.h).
INDEX, DATA = "packed.json", "packed.safetensors"
# How many numbers of a row lie side by side in the panels: 4 bytes of them. The keys are the dtypes of a packed model.
LANES = {"float32": 1, "bfloat16": 2, "int8": 4}
_PANEL_WIDTH = 64  # kPanel of csrc/vec.h
_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")
# The fields of packed.json: the values or the type that each may have.
_FIELDS: dict[str, Any] = {
    "dtype": tuple(LANES),
    "architecture": tuple(HEADS),
    "panel_width": (_PANEL_WIDTH,),
    "folded_bert": bool,
    "kept": list,
    "calibration": str | None,
    "bytes": int,
    "blake2b": str,
}
_AGAIN = "pack the model again with this version of distilrt"


@dataclass(frozen=True, slots=True)
class Packing:
    """How a model is packed, which settles the tensors of the file."""

    architecture: str
    dtype: str  # what the linear layers are packed for
    kept: tuple[str, ...] = ()  # those that are not, in higher precision
    calibration: str | None = None  # what texts int8 was calibrated with, in words; None: none

    @classmethod
    def of(cls, model: Any) -> Packing:
        """How a model on the CPU backend is packed."""
        return cls(model.architecture, model.dtype, tuple(model.backend.kept), model.backend.calibration)

    def parts(self, dtype: str) -> dict[str, str]:
        """The tensors of a linear layer that is packed for `dtype`, and their dtypes in the file."""
        scales = {"column_scales": "float32", "offsets": "int32"} if dtype == "int8" else {}
        inputs = {"input_scales": "float32"} if scales and self.calibration is not None else {}
        return {"panels": "uint8", **inputs, **scales, "bias": "float32"}

    def specs(self, config: DistilBertConfig) -> dict[str, Spec]:
        """Dtype and shape of every tensor of the file."""
        shapes = expected_shapes(config, self.architecture)
        specs: dict[str, Spec] = {}
        for name, (dtype, sources) in linears(config.num_layers, shapes, self.dtype).items():
            weights = {f"{source}.weight": shapes.pop(f"{source}.weight") for source in sources}
            if name in self.kept:
                specs |= {weight: ("bfloat16", shape) for weight, shape in weights.items()}
                continue
            n = sum(rows for rows, _ in weights.values())
            k = next(columns for _, columns in weights.values())
            size = {"panels": -(-n // _PANEL_WIDTH) * _PANEL_WIDTH * -(-k // LANES[dtype]) * 4, "input_scales": k}
            specs |= {f"{name}.{part}": (word, (size.get(part, n),)) for part, word in self.parts(dtype).items()}
            for source in sources:
                del shapes[f"{source}.bias"]
        return specs | {name: ("float32", shape) for name, shape in shapes.items()}

    def tensors(self, model: Any) -> dict[str, tuple[str, npt.NDArray[Any]]]:
        """Dtype and numbers of every tensor of the file."""
        packed: dict[str, npt.NDArray[Any]] = {}
        for name, (dtype, _) in linears(model.config.num_layers, model.weights, self.dtype).items():
            if name not in self.kept:
                parts = model.backend.linear_parts(name)
                packed |= {f"{name}.{part}": parts[part] for part in self.parts(dtype)}
        found = {}
        for name, (dtype, _) in self.specs(model.config).items():
            array = packed[name] if name in packed else model.weights[name]
            found[name] = (dtype, to_bfloat16(array) if dtype == "bfloat16" else array)
        return found


class PackedWeights(Mapping[str, FloatArray]):
    """The tensors of a packed folder by canonical name; those of packed linear layers only as `linear` gives them."""

    def __init__(self, source: str, file: TensorFile, config: DistilBertConfig, packing: Packing) -> None:
        self.source, self.packing, self.dtype = source, packing, packing.dtype
        self._file = file
        self._shapes = expected_shapes(config, packing.architecture)
        self._linears = linears(config.num_layers, self._shapes, packing.dtype)

    def linear(self, name: str) -> dict[str, Any]:
        """Arguments of `_C.Encoder.add_packed_linear` for one of `linears` but `kept`: views of the memory map."""
        dtype, (source, *_) = self._linears[name]
        none = {"column_scales": np.zeros(0, np.float32), "offsets": np.zeros(0, np.int32)}
        parts = {part: self._file.raw(f"{name}.{part}") for part in self.packing.parts(dtype)}
        return {"name": name, "dtype": dtype, "k": self._shapes[f"{source}.weight"][1], **none, **parts}

    def __getitem__(self, name: str) -> FloatArray:
        if name not in self._shapes:
            raise KeyError(name)
        if name not in self._file.specs:
            raise CheckpointError(
                f"{self.source} has {name} only as packed for backend='cpu' in {self.dtype}, and serves nothing else: "
                "other backends, attentions, state_dict and save_pretrained need the checkpoint that it was packed from"
            )
        return self._file.load(name)

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def find(source: Source) -> Path | None:
    """The packed folder that `source` is, if it is one; never on the hub."""
    folder = source.folder
    return folder if folder is not None and (folder / INDEX).is_file() else None


def write(folder: str | Path, model: Any, source: Source | None = None) -> int:
    """Write a packed folder. A crash leaves one that doesn't open, never a wrong one.

    Args:
        folder: made if needed; an older packed folder is replaced.
        model: on the CPU backend and in the dtype to be packed.
        source: its checkpoint, of which the files that tokenizer and tasks read are copied; None: copy nothing.

    Returns:
        The bytes of `packed.safetensors`.

    Raises:
        BackendError: the model is on another backend.
        OSError: the folder holds a checkpoint's weights, or can't be written.
    """
    if model.backend.name != "cpu":
        raise BackendError(f"a model to be packed must be on backend 'cpu', found {model.backend.name!r}")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    other = next((name for name in WEIGHT_FILES if (target / name).exists()), None)
    if other is not None:
        raise FileExistsError(f"{target} holds {other}, and a packed folder has no other weights; give another folder")
    (target / INDEX).unlink(missing_ok=True)
    packing = Packing.of(model)
    write_safetensors(target / DATA, packing.tensors(model))
    model.config.replace(architectures=(model.architecture,)).save_pretrained(target)
    if source is not None:
        sentence_files.copy(source, target, *_TEXT_FILES)
    size = (target / DATA).stat().st_size
    index = {
        "version": VERSION,
        "dtype": packing.dtype,
        "architecture": packing.architecture,
        "panel_width": _PANEL_WIDTH,
        "folded_bert": model.config.folded_bert,
        "kept": packing.kept,
        "calibration": packing.calibration,
        "distilrt": __version__,
        "bytes": size,
        "blake2b": _digest(target / DATA),
    }
    with replacing(target / INDEX) as file:
        file.write(json.dumps(index, indent=2).encode() + b"\n")
    return size


def in_memory(model: Any) -> PackedWeights:
    """What a packed folder of a model on the CPU backend would hold, without the folder."""
    packing = Packing.of(model)
    return PackedWeights("memory", TensorsInMemory(packing.tensors(model)), model.config, packing)


def load(folder: Path, architecture: str, config: DistilBertConfig) -> tuple[DistilBertConfig, PackedWeights]:
    """Open a packed folder: everything but the numbers themselves is checked, which `check` does.

    Returns:
        The config as it was when the model was packed, and the weights for `architecture`.

    Raises:
        CheckpointError: the folder is damaged, of another format, disagrees with `config`, or lacks the head.
    """
    index, path = _read_index(folder), folder / DATA
    if not path.is_file() or path.stat().st_size != index["bytes"]:
        found = f"{path.stat().st_size} bytes" if path.is_file() else "none"
        raise CheckpointError(
            f"{path}: expected {index['bytes']} bytes by {INDEX}, found {found}: it was truncated or replaced; copy "
            f"the whole folder again, or {_AGAIN}"
        )
    file = SafetensorsFile(path)
    check_num_layers(config, file.specs, path)
    own = Packing(index["architecture"], index["dtype"], tuple(index["kept"]), index.get("calibration"))
    known = list(linears(config.num_layers, (), own.dtype)) if own.dtype == "int8" else []
    if any(name not in known for name in own.kept):
        raise CheckpointError(
            f"{folder / INDEX}: kept is {index['kept']}, and this {own.dtype} model has linear layers "
            f"{', '.join(known) or 'of one dtype alone'}; {_AGAIN}"
        )
    stored = own.specs(config)
    for name in dict.fromkeys([*stored, *file.specs]):
        found_spec, expected = file.specs.get(name), stored.get(name)
        if found_spec != expected:
            raise CheckpointError(
                f"{path}: tensor {name} is {_in_words(found_spec)}, and {_in_words(expected)} by config.json and "
                f"{INDEX}: the files don't belong together; {_AGAIN}"
            )
    asked = replace(own, architecture=architecture)
    for name, spec in asked.specs(config).items():
        if stored.get(name) != spec:
            raise CheckpointError(
                f"{path} was packed as {own.architecture} and lacks {name} {list(spec[1])} of {architecture}; load it "
                f"as {own.architecture}, or pack a checkpoint that has this head"
            )
    config = config.replace(folded_bert=index["folded_bert"])
    return config, PackedWeights(str(path), file, config, asked)


def check(folder: Path) -> dict[str, Any]:
    """Compare every byte with the checksum that was taken when the folder was written.

    Returns:
        The content of `packed.json`.

    Raises:
        CheckpointError: they differ, or the folder is not a packed one of this format.
    """
    index = _read_index(folder)
    if not (folder / DATA).is_file() or _digest(folder / DATA) != index["blake2b"]:
        raise CheckpointError(
            f"{folder / DATA} is not what was packed: its checksum differs from that in {INDEX}; copy the whole folder "
            f"again, or {_AGAIN}"
        )
    return index


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        index = read_object(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_AGAIN}") from error
    if index.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has format version {index.get('version')!r}, by distilrt {index.get('distilrt')!r}; this one, "
            f"{__version__}, reads version {VERSION}: {_AGAIN}, or use that version"
        )
    for name, allowed in _FIELDS.items():
        value = index.get(name)
        if not (value in allowed if isinstance(allowed, tuple) else isinstance(value, allowed)):
            raise CheckpointError(f"{path}: {name} is {value!r}, which this distilrt can't read; {_AGAIN}")
    return index


def _in_words(spec: Spec | None) -> str:
    return "not there" if spec is None else f"{spec[0]} {list(spec[1])}"


def _digest(path: Path) -> str:
    import hashlib  # Loading this module takes longer than opening a packed folder.

    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
