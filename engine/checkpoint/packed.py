"""Packed folders: a model as its backend holds it, so that opening one computes nothing.

Beside `config.json` and the tokenizer's files lie `packed.safetensors`, with the tensors that
`distilrt.checkpoint.packing` names, and `packed.json`, written last, which says how the model is packed and for which
backend. The CPU maps the tensors into memory and copies none, and a GPU gets a copy of them. Nothing here computes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from distilrt import __version__
from distilrt.checkpoint import sentence_files
from distilrt.checkpoint.files import read_object, replacing
from distilrt.checkpoint.packing import CODES, DTYPES, PackedWeights, Packing, tensor
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.tensor_files import SafetensorsFile, Spec, TensorsInMemory, as_stored, write_safetensors
from distilrt.checkpoint.weight_files import WEIGHT_FILES
from distilrt.checkpoint.weights import check_num_layers
from distilrt.errors import BackendError, CheckpointError
from distilrt.model.architecture import linears
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS

# It changes with the names and dtypes of tensors (distilrt.checkpoint.packing), the layout of panels (csrc/pack-inl.h)
# and the meaning of scales (csrc/kernels.h, kernels/quantize.py).
VERSION = 5
INDEX, DATA = "packed.json", "packed.safetensors"
_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")
# The fields of packed.json: the values or the type that each may have.
_FIELDS: dict[str, Any] = {
    "backend": tuple(DTYPES),
    "dtype": DTYPES,  # those of the backend
    "architecture": tuple(HEADS),
    "tied": bool,
    "kept": list,
    "calibration": str | None,
    "bytes": int,
    "blake2b": str,
}
_AGAIN = "pack the model again with this version of distilrt"


def find(source: Source) -> Path | None:
    """The packed folder that `source` is, if it is one; never on the hub."""
    folder = source.folder
    return folder if folder is not None and (folder / INDEX).is_file() else None


def of(model: Any) -> PackedWeights:
    """A loaded model's tensors as its backend holds them.

    Raises:
        BackendError: the model is on a backend for which nothing can be packed.
    """
    backend = model.backend
    if backend.name not in DTYPES:
        raise BackendError(f"a model to be packed must be on backend {' or '.join(DTYPES)}, found {backend.name!r}")
    packing = replace(backend.packing, architecture=model.architecture)
    held = {
        f"{name}.{part}": array
        for name in packing.linears(model.config)
        for part, array in backend.linear_parts(name).items()
    }
    tensors = {
        name: (dtype, held[name] if name in held else as_stored(tensor(model.weights, name), dtype))
        for name, (dtype, _) in packing.specs(model.config).items()
    }
    return PackedWeights("memory", TensorsInMemory(tensors), model.config, packing)


def write(folder: str | Path, weights: PackedWeights, source: Source | None = None) -> int:
    """Write a packed folder. A crash leaves one that doesn't open, never a wrong one.

    Args:
        folder: made if needed; an older packed folder is replaced.
        weights: `of` a model, or `packed_for_gpu`.
        source: its checkpoint, of which the files that tokenizer and tasks read are copied; None: copy nothing.

    Returns:
        The bytes of `packed.safetensors`.

    Raises:
        OSError: the folder holds a checkpoint's weights, or can't be written.
    """
    config, packing = weights.config, weights.packing
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    other = next((name for name in WEIGHT_FILES if (target / name).exists()), None)
    if other is not None:
        raise FileExistsError(f"{target} holds {other}, and a packed folder has no other weights; give another folder")
    (target / INDEX).unlink(missing_ok=True)
    write_safetensors(target / DATA, {name: weights.raw(name) for name in packing.specs(config)})
    config.replace(architectures=(packing.architecture,)).save_pretrained(target)
    if source is not None:
        sentence_files.copy(source, target, *_TEXT_FILES)
    size = (target / DATA).stat().st_size
    index = {
        "version": VERSION,
        **asdict(packing),
        "distilrt": __version__,
        "bytes": size,
        "blake2b": _digest(target / DATA),
    }
    with replacing(target / INDEX) as file:
        file.write(json.dumps(index, indent=2).encode() + b"\n")
    return size


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
    own = Packing(**{field.name: index.get(field.name) for field in fields(Packing)} | {"kept": tuple(index["kept"])})
    known = list(linears(config.num_layers, (), own.dtype)) if own.dtype in CODES else []
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
        if allowed is DTYPES:
            allowed = DTYPES[index["backend"]]
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
