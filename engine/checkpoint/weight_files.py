"""The files that hold the weights of a checkpoint: which there may be, and shards with their index.

Which tensors there should be, and what they are called, is the business of `distilrt.checkpoint.weights`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distilrt.checkpoint.files import read_object
from distilrt.checkpoint.h5_file import H5File, torch_tensors
from distilrt.checkpoint.pickle_file import PickleFile
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.tensor_files import SafetensorsFile, Stored, TensorFile, refuse_impostor
from distilrt.errors import CheckpointError

Tensors = dict[str, Stored]

# In the order of preference. Those that end in .json are indexes of shards.
_FORMATS: dict[str, Callable[[Path], TensorFile]] = {
    "model.safetensors": SafetensorsFile,
    "model.safetensors.index.json": SafetensorsFile,
    "pytorch_model.bin": PickleFile,
    "pytorch_model.bin.index.json": PickleFile,
    "tf_model.h5": H5File,
}
WEIGHT_FILES = tuple(_FORMATS)


def open_tensors(source: Source, use_safetensors: bool | None = None) -> tuple[Tensors, Path]:
    """Open the weights of a checkpoint, of the first format that it has; without its adapter.

    Args:
        use_safetensors: True: of the formats only safetensors; False: only the others.

    Returns:
        Every tensor by its name in the files; and the weights file, or the index of the shards.

    Raises:
        OSError: there are no weights in a known format, or a shard is missing.
        CheckpointError: a file is damaged, or was refused because it would run code.
        ImportError: a `.bin` without torch, or an `.h5` without h5py.
    """
    source = source.base
    names = [name for name in WEIGHT_FILES if use_safetensors in (None, "safetensors" in name)]
    for name in names:
        path = source.file(name)
        if path is not None:
            reader = _FORMATS[name]
            return (_open_shards(source, path, reader) if path.suffix == ".json" else _open(path, reader)), path
    advice = f" It has an adapter: give BASE@{source}." if source.has_adapter else ""
    raise FileNotFoundError(
        f"{source} has no weights: looked for {', '.join(names)}.{advice} Other formats must be converted to "
        "safetensors; if the network is not to be used, they must all be cached"
    )


def _open(path: Path, reader: Callable[[Path], TensorFile]) -> Tensors:
    file = reader(path)
    return torch_tensors(file) if file.written_by == "tf" else file.tensors()


def _open_shards(source: Source, index: Path, reader: Callable[[Path], TensorFile]) -> Tensors:
    refuse_impostor(index)
    shard_of = read_object(index).get("weight_map")
    if not isinstance(shard_of, dict):
        raise CheckpointError(
            f"{index} is not an index of shards: weight_map must map the names of tensors to files, found "
            f"{type(shard_of).__name__}"
        )
    for shard in shard_of.values():
        if not _is_file_name(shard):
            raise CheckpointError(f"{index} names {shard!r} as a shard; a shard is a plain file name beside the index")
    shards: dict[str, Tensors] = {}
    for shard in dict.fromkeys(shard_of.values()):
        path = source.file(shard)
        if path is None:
            raise FileNotFoundError(f"{index} needs the shard {shard}, which is not there; fetch the whole checkpoint")
        shards[shard] = _open(path, reader)
    lost = next((name for name, shard in shard_of.items() if name not in shards[shard]), None)
    if lost is not None:
        raise CheckpointError(f"{index} says that {lost} is in {shard_of[lost]}, which has no such tensor")
    return {name: shards[shard][name] for name, shard in shard_of.items()}


def _is_file_name(value: object) -> bool:
    """Whether a JSON value names a file of a folder, and no other place."""
    plain = isinstance(value, str) and Path(value).name == value and value not in ("", "..")
    return plain and "\0" not in str(value) and len(str(value).encode()) <= 255
