"""The weights of a model: float32 arrays by canonical name. They are opened, checked, made up at random and saved here.

This module knows neither file formats (`distilrt.checkpoint.weight_files` opens the files) nor spellings of names
(`distilrt.checkpoint.names`), nor how a backend lays weights out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sized
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt.checkpoint import adapter
from distilrt.checkpoint.names import canonical_tensors, is_next_sentence, name_in_files, named_in_files
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.tensor_files import FLOAT_DTYPES, FloatArray, Stored, TensorsInMemory, write_safetensors
from distilrt.checkpoint.weight_files import open_tensors
from distilrt.errors import CheckpointError
from distilrt.model.architecture import (
    POSITIONS,
    PROJECTOR,
    WORDS,
    Shape,
    expected_shapes,
    head_of,
    with_pooler,
)
from distilrt.model.bert_config import NEXT_SENTENCE
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS

_log = logging.getLogger("distilrt.checkpoint")
_MOST_MADE = 2**26  # numbers of a table of positions that the config asks for and the file does not have as it is
_HEAD_NAMES = frozenset(name for head in HEADS.values() for name in head.tensors)


class Weights(Mapping[str, FloatArray]):
    """Named float32 arrays, read from their files at each access.

    A float32 tensor of a file is a read-only view of its memory map; one of another dtype is converted anew at every
    access and not kept, so a loop over all never holds more than one. Arrays from memory are returned as they are.
    The first access to a tensor checks that all of its numbers are finite, while its pages are in the cache anyway, and
    raises `CheckpointError` otherwise. Pickling takes the numbers along, in the dtype they are stored in.

    Attributes:
        dtype: "float32", "float16", "bfloat16" or "float64": what most of the numbers are stored in.
        source: path of the weights file or of its index of shards; "memory" for arrays from memory.
    """

    def __init__(self, entries: Mapping[str, Stored | FloatArray], source: str = "memory") -> None:
        self._entries = {
            name: entry if isinstance(entry, Stored) else _from_memory(name, entry) for name, entry in entries.items()
        }
        self._finite: set[str] = set()
        self.source = source
        sizes = dict.fromkeys(FLOAT_DTYPES, 0)
        for entry in self._entries.values():
            sizes[entry.dtype] += math.prod(entry.shape)
        self.dtype = max(FLOAT_DTYPES, key=lambda dtype: sizes[dtype])

    def __getitem__(self, name: str) -> FloatArray:
        array = self._entries[name].load()
        if name not in self._finite:
            if not _is_finite(array):
                origin = self._entries[name].file.origin or self.source
                raise CheckpointError(
                    f"tensor {name} of {origin} holds NaN or infinity: its training diverged or the file is damaged; "
                    "use another checkpoint"
                )
            self._finite.add(name)
        return array

    def __reduce__(self) -> tuple[Any, ...]:
        raws: dict[int, tuple[str, npt.NDArray[Any]]] = {}  # by tensor, for tied ones are one
        for name, entry in self._entries.items():
            raws.setdefault(id(entry), self.raw(name))
        file = TensorsInMemory({name: raws[id(entry)] for name, entry in self._entries.items()})
        return Weights, (file.tensors(), self.source)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def raw(self, name: str) -> tuple[str, npt.NDArray[Any]]:
        """The dtype that a tensor is stored in, and its numbers as stored; bfloat16 ones as uint16."""
        entry = self._entries[name]
        return entry.dtype, entry.raw()

    def release(self) -> None:
        """Give the files' mapped pages back to the operating system; the next access just reads them again."""
        for file in {entry.file for entry in self._entries.values()}:
            file.release()


def _from_memory(name: str, array: FloatArray) -> Stored:
    if array.dtype != np.float32:
        raise TypeError(f"weights from memory must be float32, found {array.dtype} for {name}")
    return TensorsInMemory({name: ("float32", array)}).tensors()[name]


def _is_finite(array: FloatArray) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum is finite only where all numbers are, and takes a fraction of the time of looking at each.
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def load_weights(
    source: Source,
    architecture: str,
    config: DistilBertConfig,
    *,
    use_safetensors: bool | None = None,
    strict: bool = False,
) -> Weights:
    """Open the weights of a checkpoint for one architecture, whatever their format and spelling; with its adapter.

    Tensors of other heads are left out, as in the reference, and so, with a warning, are those that belong nowhere,
    which `strict` refuses. Unlike the reference, missing head tensors are an error and never made up.

    Returns:
        The tensors of `expected_shapes(config, architecture)`, in that order.

    Raises:
        OSError, ImportError: as `open_tensors`.
        CheckpointError: a file is damaged or refused; or a tensor is missing, misshapen, of an unfit dtype or, with
            `strict`, extra; or the config does not say which output of the head is which label.
    """
    check_architecture(str(source), architecture, config)
    stored, path = open_tensors(source, use_safetensors)
    return assemble(stored, architecture, config, path, strict=strict, tuned=source.adapter)


def check_architecture(model: str, architecture: str, config: DistilBertConfig) -> None:
    """Refuse a head whose labels have no order.

    Raises:
        CheckpointError: it is such a head.
    """
    head = head_of(architecture)
    if head.has_labels:
        try:
            config.label_names()
        except ValueError as error:
            raise CheckpointError(f"the config of {model} does not fit {architecture}: {error}") from None


def assemble(
    stored: Mapping[str, Stored],
    architecture: str,
    config: DistilBertConfig,
    source: str | Path,
    *,
    strict: bool,
    tuned: Source | None = None,
) -> Weights:
    """`load_weights` of tensors that are open already, by their names in the file or state dict; `tuned`: the adapter.

    Raises:
        OSError: a file of the adapter is missing.
        CheckpointError: the adapter is refused; or a tensor is missing, misshapen, of an unfit dtype or, with `strict`,
            extra.
    """
    check_num_layers(config, stored, source)
    canonical = partial(canonical_tensors, architecture=architecture, config=config)
    found = canonical(stored, path=source)
    config = with_pooler(config, architecture, found)
    shapes = expected_shapes(config, architecture)
    if config.is_bert and config.num_position_rows * config.hidden_size > _MOST_MADE:
        raise CheckpointError(
            f"{source} has {config.type_vocab_size} token types and {config.max_position_embeddings} positions of "
            f"{config.hidden_size} numbers; distilrt keeps their sums, which may be {_MOST_MADE} numbers at most"
        )
    if config.sinusoidal_pos_embds and POSITIONS not in found:
        if math.prod(shapes[POSITIONS]) > _MOST_MADE:
            raise CheckpointError(
                f"{source} has no {POSITIONS}, and one of shape {list(shapes[POSITIONS])} by the config is too large "
                "to be computed; correct config.json"
            )
        found[POSITIONS] = _from_memory(POSITIONS, _sinusoidal(shapes[POSITIONS]))
    # The reference ties whichever of the two is there; an adapter may name either.
    if config.tie_word_embeddings and (PROJECTOR in shapes or tuned):
        for name, twin in ((PROJECTOR, WORDS), (WORDS, PROJECTOR)):
            if name not in found and twin in found:
                found[name] = found[twin]
    if tuned is not None:  # after tying: PEFT changes one of two tied weights and leaves its twin
        found = adapter.merged(found, tuned, canonical)
    _check_names(found, shapes, config, architecture, source, strict)
    for name, shape in shapes.items():
        check_tensor(name, found[name], shape, source)
    return Weights({name: found[name] for name in shapes}, str(source))


def check_num_layers(config: DistilBertConfig, tensors: Sized, source: str | Path) -> None:
    """Refuse more layers than a file with these tensors can have, before anything is made for each layer.

    Raises:
        CheckpointError: there are fewer tensors than layers.
    """
    if config.num_layers > len(tensors):
        raise CheckpointError(
            f"config.n_layers is {config.num_layers}, but {source} has only {len(tensors)} tensors; weights and config "
            "don't belong together"
        )


def _check_names(
    found: Mapping[str, Stored],
    shapes: Mapping[str, Shape],
    config: DistilBertConfig,
    architecture: str,
    path: str | Path,
    strict: bool,
) -> None:
    """Refuse missing tensors and, with `strict`, those that belong nowhere; else warn of the latter."""
    missing = [name for name in shapes if name not in found]
    extra = [name for name in found if name not in shapes and name not in _HEAD_NAMES]
    advice = (
        f"weights and config (num_layers {config.num_layers}, hidden_size {config.hidden_size}) don't belong together"
    )
    if missing:
        if _HEAD_NAMES.issuperset(missing):
            advice = (
                "they are never made up at random: use a checkpoint that was fine-tuned for this, or load this one as "
                "DistilBertModel"
            )
        head = head_of(architecture)
        called = [name_in_files(name, head, config) if config.is_bert else name for name in missing]
        needed = _some([f"{name} {list(shapes[key])}" for name, key in zip(called, missing, strict=True)])
        hint = f", but holds {_some(extra)}" if extra else ""
        raise CheckpointError(f"{path} lacks tensors that {architecture} needs: {needed}{hint}; {advice}")
    if extra:
        named = _some([f"{name} {list(found[name].shape)}" for name in extra])
        if strict:
            raise CheckpointError(f"{path} has extra tensors that {architecture} does not: {named}; {advice}")
        message = (
            "%s has extra tensors, which %s does not use: %s. They are left out, as in the reference; strict=True "
            "refuses them"
        )
        _log.warning(message, path, architecture, named)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_tensor(name: str, tensor: Stored, shape: Shape, path: str | Path) -> None:
    """Compare a tensor with what the config describes; a dimension of -1 may have any size but 0.

    Raises:
        CheckpointError: it is of another shape, or not of floats.
    """
    called = name if tensor.name == name else f"{name} (in the file: {tensor.name})"
    path = tensor.file.origin or path
    sizes = tuple(-1 if want == -1 and have else have for want, have in zip(shape, tensor.shape, strict=False))
    if sizes != shape or len(tensor.shape) != len(shape):
        raise CheckpointError(
            f"tensor {called} of {path}: expected shape {list(shape)} by the config, found {list(tensor.shape)}"
        )
    if tensor.dtype not in FLOAT_DTYPES:
        raise CheckpointError(
            f"tensor {called} of {path}: expected dtype {', '.join(FLOAT_DTYPES)}, found {tensor.dtype}; use the "
            "unquantized checkpoint"
        )


def _sinusoidal(shape: Shape) -> FloatArray:
    positions, dim = np.arange(shape[0])[:, None], np.arange(shape[1])
    angles = positions / np.power(10000, 2 * (dim // 2) / shape[1])
    return np.where(dim % 2, np.cos(angles), np.sin(angles)).astype(np.float32)


def random_weights(config: DistilBertConfig, architecture: str, *, seed: int = 0) -> Weights:
    """Weights as the reference initialises them, except for the random stream; for tests and benches.

    A tied `vocab_projector.weight` is the word embeddings' own array.
    """
    random = np.random.default_rng(seed)
    scale = np.float32(config.initializer_range or 0.02)  # the reference takes 0 as unset
    arrays: dict[str, FloatArray] = {}
    for name, shape in expected_shapes(config, architecture).items():
        if len(shape) == 1:
            arrays[name] = np.full(shape, "norm" in name.lower() and name.endswith(".weight"), np.float32)
        elif name == POSITIONS and config.sinusoidal_pos_embds:
            arrays[name] = _sinusoidal(shape)
        elif name == PROJECTOR and config.tie_word_embeddings:
            arrays[name] = arrays[WORDS]
        else:
            arrays[name] = random.standard_normal(shape, dtype=np.float32) * scale
    if config.pad_token_id is not None:
        arrays[WORDS][config.pad_token_id] = 0
    return Weights(arrays)


def save_checkpoint(
    folder: str | Path, config: DistilBertConfig, weights: Mapping[str, FloatArray], architecture: str
) -> None:
    """Write `config.json` and `model.safetensors` as transformers does, every tensor in the dtype it is stored in.

    A tied `vocab_projector.weight` is not written twice; one that differs from the word embeddings is written, and the
    config then says `tie_word_embeddings: false`. A crash leaves the old file or the new one, never half of it.

    Raises:
        CheckpointError: a tensor of `expected_shapes(config, architecture)` is missing or misshapen.
    """
    config = with_pooler(config, architecture, weights)
    head, shapes = head_of(architecture), expected_shapes(config, architecture)
    held = weights if isinstance(weights, Weights) else Weights(weights)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, shape in shapes.items():
        if name not in held:
            raise CheckpointError(f"can't save {architecture}: tensor {name} {list(shape)} is missing")
        tensors[name] = held.raw(name)
        found = tensors[name][1].shape
        if found != shape:
            raise CheckpointError(
                f"can't save {architecture}: tensor {name}: expected shape {list(shape)} by the config, found "
                f"{list(found)}"
            )
    if config.tie_word_embeddings and PROJECTOR in tensors:
        if tensors[PROJECTOR][0] == tensors[WORDS][0] and np.array_equal(tensors[PROJECTOR][1], tensors[WORDS][1]):
            del tensors[PROJECTOR]
        else:
            config = config.replace(tie_word_embeddings=False)
    write_safetensors(target / "model.safetensors", named_in_files(tensors, head, config))
    called = NEXT_SENTENCE if is_next_sentence(config, architecture) else architecture
    config.replace(architectures=(called,), dtype=held.dtype).save_pretrained(target)
