"""From a hub id or folder to named float32 arrays: every spelling of a checkpoint, one set of names out.

The canonical names are the reference's without the `distilbert.` prefix. BERT encoders are folded into them; weights
are checked against the config, saved, and made up at random. This module knows no file format
(`distilrt.checkpoint.weights` does) and no backend's layout.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sized
from pathlib import Path

import numpy as np

from distilrt.checkpoint.source import Source
from distilrt.checkpoint.tensor_files import FLOAT_DTYPES, FloatArray, Stored, write_safetensors
from distilrt.checkpoint.weight_files import open_tensors
from distilrt.checkpoint.weights import Weights
from distilrt.errors import CheckpointError
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS, Dimensions, Head

__all__ = ["Weights", "architecture_of", "expected_shapes", "load", "random_weights", "save"]

_log = logging.getLogger("distilrt.checkpoint")
Shape = tuple[int, ...]


def _linear(name: str, rows: str | int, columns: str) -> dict[str, Dimensions]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str) -> dict[str, Dimensions]:
    return {f"{name}.weight": ("hidden_size",), f"{name}.bias": ("hidden_size",)}


_WORDS = "embeddings.word_embeddings.weight"
_POSITIONS = "embeddings.position_embeddings.weight"
_SEGMENTS = "embeddings.token_type_embeddings.weight"  # of a BERT only
_PROJECTOR = "vocab_projector.weight"

_EMBEDDINGS: dict[str, Dimensions] = {
    _WORDS: ("vocab_size", "hidden_size"),
    _POSITIONS: ("max_position_embeddings", "hidden_size"),
    **_norm("embeddings.LayerNorm"),
}
_LAYER: dict[str, Dimensions] = {
    **_linear("attention.q_lin", "hidden_size", "hidden_size"),
    **_linear("attention.k_lin", "hidden_size", "hidden_size"),
    **_linear("attention.v_lin", "hidden_size", "hidden_size"),
    **_linear("attention.out_lin", "hidden_size", "hidden_size"),
    **_norm("sa_layer_norm"),
    **_linear("ffn.lin1", "intermediate_size", "hidden_size"),
    **_linear("ffn.lin2", "hidden_size", "intermediate_size"),
    **_norm("output_layer_norm"),
}
_MOST_SINUSOIDS = 2**26  # numbers of a table that the config alone describes, for want of one in the file
_HEAD_NAMES = frozenset(name for head in HEADS.values() for name in head.tensors)

_IGNORED = re.compile(r"pooler\.|cls\.seq_relationship\.|(.*\.)?position_ids$")
_OLD_NORM = re.compile(r"(LayerNorm|layer_norm)\.(gamma|beta)$")
_NORM_PART = {"gamma": "weight", "beta": "bias"}
_BERT_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)$")
_BERT_PARTS = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
_BERT_HEAD = {
    "cls.predictions.transform.dense.weight": "vocab_transform.weight",
    "cls.predictions.transform.dense.bias": "vocab_transform.bias",
    "cls.predictions.transform.LayerNorm.weight": "vocab_layer_norm.weight",
    "cls.predictions.transform.LayerNorm.bias": "vocab_layer_norm.bias",
    "cls.predictions.decoder.weight": _PROJECTOR,
    "cls.predictions.decoder.bias": "vocab_projector.bias",
    "cls.predictions.bias": "vocab_projector.bias",
}
# The first is only another name of the second, which is the one that a BERT adds, where a file has both.
_SHADOWED = {"cls.predictions.bias": "cls.predictions.decoder.bias"}


def architecture_of(config: DistilBertConfig) -> str | None:
    """The architecture that a checkpoint was saved as, a key of HEADS; None where its config names none.

    Raises:
        CheckpointError: the config names only architectures that are unknown here.
    """
    if not config.architectures:
        return None
    known = next((name for name in config.architectures if name in HEADS), None)
    if known is None:
        raise CheckpointError(f"config.architectures is {', '.join(config.architectures)}; known are "
                              f"{', '.join(HEADS)}. Load the checkpoint with one of these classes by name")  # fmt: skip
    return known


def expected_shapes(config: DistilBertConfig, architecture: str) -> dict[str, Shape]:
    """Canonical name and shape of every tensor of a model.

    Raises:
        ValueError: an unknown architecture.
    """
    head = _head(architecture)
    layers = (
        {f"transformer.layer.{i}.{name}": dims for name, dims in _LAYER.items()} for i in range(config.num_layers)
    )
    tables = [_EMBEDDINGS, *layers, head.tensors]
    return {
        name: tuple(dim if isinstance(dim, int) else int(getattr(config, dim)) for dim in dims)
        for table in tables
        for name, dims in table.items()
    }


def _head(architecture: str) -> Head:
    if architecture not in HEADS:
        raise ValueError(f"architecture must be one of {', '.join(HEADS)}, found {architecture!r}")
    return HEADS[architecture]


def load(
    source: Source,
    architecture: str,
    config: DistilBertConfig,
    *,
    use_safetensors: bool | None = None,
    strict: bool = False,
) -> Weights:
    """Open the weights of a checkpoint for one architecture, whatever their format and spelling.

    Tensors of other heads are left out, as in the reference, and so, with a warning, are those that belong nowhere.
    Unlike the reference, missing head tensors are an error and never made up.

    Args:
        source: where the checkpoint is.
        architecture: a key of `distilrt.model.heads.HEADS`.
        config: the checkpoint's config, as `DistilBertConfig.from_pretrained` gives it.
        use_safetensors: True: of the formats only safetensors; False: only the others.
        strict: refuse tensors that belong nowhere.

    Returns:
        The tensors of `expected_shapes(config, architecture)`, in that order.

    Raises:
        OSError: the folder, repository, revision or weights are not there.
        CheckpointError: a file is damaged or refused; or a tensor is missing, misshapen, of an unfit dtype or, with
            `strict`, extra; or the config does not say which output of the head is which label.
        ImportError: a `pytorch_model.bin` without torch, or a `tf_model.h5` without h5py.
        ValueError: an unknown architecture.
    """
    check_architecture(str(source), architecture, config)
    stored, path = open_tensors(source, use_safetensors)
    return assemble(stored, architecture, config, path, strict=strict)


def check_architecture(model: str, architecture: str, config: DistilBertConfig) -> None:
    """Refuse a head that a folded BERT would compute in another way than BERT does, or whose labels have no order.

    Raises:
        CheckpointError: it is such a head.
        ValueError: an unknown architecture.
    """
    head = _head(architecture)
    if head.has_labels:
        try:
            config.label_names()
        except ValueError as error:
            raise CheckpointError(f"the config of {model} does not fit {architecture}: {error}") from None
    if config.folded_bert and head.differs_in_bert:
        fit = ", ".join(name for name, other in HEADS.items() if not other.differs_in_bert)
        raise CheckpointError(f"{model} is a BERT and can't run as {architecture}: {head.differs_in_bert}. "
                              f"A BERT can be loaded as {fit}")  # fmt: skip


def assemble(
    stored: Mapping[str, Stored], architecture: str, config: DistilBertConfig, source: str | Path, *, strict: bool
) -> Weights:
    """`load` for tensors that are open already, by their names in the file or state dict; `source` names it in errors.

    Raises:
        CheckpointError: a tensor is missing, misshapen, of an unfit dtype or, with `strict`, extra.
        ValueError: an unknown architecture.
    """
    check_num_layers(config, stored, source)
    shapes = expected_shapes(config, architecture)
    found: dict[str, Stored | FloatArray] = dict(_by_canonical_name(stored, config.folded_bert, source))
    if config.folded_bert:
        shapes = {_SEGMENTS: (-1, config.hidden_size)} | shapes
    if config.sinusoidal_pos_embds and _POSITIONS not in found:
        if math.prod(shapes[_POSITIONS]) > _MOST_SINUSOIDS:
            raise CheckpointError(f"{source} has no {_POSITIONS}, and one of shape {list(shapes[_POSITIONS])} by the "
                                  "config is too large to be computed; correct config.json")  # fmt: skip
        found[_POSITIONS] = _sinusoidal(shapes[_POSITIONS])
    if config.tie_word_embeddings and _PROJECTOR in shapes:  # the reference ties whichever of the two is there
        for name, twin in ((_PROJECTOR, _WORDS), (_WORDS, _PROJECTOR)):
            if name not in found and twin in found:
                found[name] = found[twin]
    _check(found, shapes, config, architecture, source, strict)
    entries = {name: found[name] for name in shapes}
    if config.folded_bert:
        positions, segments = (_value(entries[name]) for name in (_POSITIONS, _SEGMENTS))
        entries[_POSITIONS] = positions + segments[0]
        del entries[_SEGMENTS]
    return Weights(entries, str(source))


def check_num_layers(config: DistilBertConfig, tensors: Sized, source: str | Path) -> None:
    """Refuse, before anything is made for each layer, more layers than a file with these tensors can have.

    Raises:
        CheckpointError: there are fewer tensors than layers.
    """
    if config.num_layers > len(tensors):
        raise CheckpointError(f"config.n_layers is {config.num_layers}, but {source} has only {len(tensors)} tensors; "
                              "weights and config don't belong together")  # fmt: skip


def _value(entry: Stored | FloatArray) -> FloatArray:
    return entry.load() if isinstance(entry, Stored) else entry


def _by_canonical_name(stored: Mapping[str, Stored], bert: bool, path: str | Path) -> dict[str, Stored]:
    """Rename what may matter, and leave out what no architecture reads."""
    found: dict[str, Stored] = {}
    for name, tensor in stored.items():
        canonical = _canonical(name, bert)
        if _IGNORED.match(canonical) or (bert and _SHADOWED.get(name) in stored):
            continue
        if canonical in found:
            raise CheckpointError(f"{path} holds both {found[canonical].name} and {name}, which are the same tensor of "
                                  "the model; remove one")  # fmt: skip
        found[canonical] = tensor
    return found


def _canonical(name: str, bert: bool) -> str:
    name = _OLD_NORM.sub(lambda match: f"{match[1]}.{_NORM_PART[match[2]]}", name)
    if not bert:
        return name.removeprefix("distilbert.")
    name = name.removeprefix("bert.")
    layer = _BERT_LAYER.match(name)
    if layer and layer[2] in _BERT_PARTS:
        return f"transformer.layer.{layer[1]}.{_BERT_PARTS[layer[2]]}.{layer[3]}"
    return _BERT_HEAD.get(name, name)


def _check(
    found: Mapping[str, Stored | FloatArray],
    shapes: Mapping[str, Shape],
    config: DistilBertConfig,
    architecture: str,
    path: str | Path,
    strict: bool,
) -> None:
    """Compare what was found with what the config describes; a dimension of -1 may have any size but 0."""
    missing = [f"{name} {list(shape)}" for name, shape in shapes.items() if name not in found]
    extra = [name for name in found if name not in shapes and name not in _HEAD_NAMES]
    advice = (
        f"weights and config (num_layers {config.num_layers}, hidden_size {config.hidden_size}) don't belong together"
    )
    if missing and all(name.split(" ")[0] in _HEAD_NAMES for name in missing):
        advice = ("they are never made up at random: use a checkpoint that was fine-tuned for this, or load this one "
                  "as DistilBertModel")  # fmt: skip
    if missing:
        hint = f", but holds {_some(extra)}" if extra else ""
        raise CheckpointError(f"{path} lacks tensors that {architecture} needs: {_some(missing)}{hint}; {advice}")
    if extra:
        named = _some([f"{name} {list(found[name].shape)}" for name in extra])
        if strict:
            raise CheckpointError(f"{path} has extra tensors that {architecture} does not: {named}; {advice}")
        _log.warning("%s has extra tensors, which %s does not use: %s. They are left out, as in the reference; "
                     "strict=True refuses them", path, architecture, named)  # fmt: skip
    for name, shape in shapes.items():
        entry = found[name]
        called = f"{name} (in the file: {entry.name})" if isinstance(entry, Stored) and entry.name != name else name
        if len(entry.shape) != len(shape) or any(
            have != want and (want != -1 or not have) for want, have in zip(shape, entry.shape, strict=True)
        ):
            raise CheckpointError(f"tensor {called} of {path}: expected shape {list(shape)} by the config, found "
                                  f"{list(entry.shape)}")  # fmt: skip
        if isinstance(entry, Stored) and entry.dtype not in FLOAT_DTYPES:
            raise CheckpointError(f"tensor {called} of {path}: expected dtype {', '.join(FLOAT_DTYPES)}, found "
                                  f"{entry.dtype}; use the unquantized checkpoint")  # fmt: skip


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _sinusoidal(shape: Shape) -> FloatArray:
    positions, dim = np.arange(shape[0])[:, None], np.arange(shape[1])
    angles = positions / np.power(10000, 2 * (dim // 2) / shape[1])
    return np.where(dim % 2, np.cos(angles), np.sin(angles)).astype(np.float32)


def random_weights(config: DistilBertConfig, architecture: str, *, seed: int = 0) -> Weights:
    """Weights as the reference initialises them, except for the random stream; for tests and benches.

    Returns:
        Arrays from memory; a tied `vocab_projector.weight` is the word embeddings' own array object.

    Raises:
        ValueError: an unknown architecture.
    """
    random = np.random.default_rng(seed)
    scale = np.float32(config.initializer_range or 0.02)  # the reference takes 0 as unset
    arrays: dict[str, FloatArray] = {}
    for name, shape in expected_shapes(config, architecture).items():
        if len(shape) == 1:
            arrays[name] = np.full(shape, "norm" in name.lower() and name.endswith(".weight"), np.float32)
        elif name == _POSITIONS and config.sinusoidal_pos_embds:
            arrays[name] = _sinusoidal(shape)
        elif name == _PROJECTOR and config.tie_word_embeddings:
            arrays[name] = arrays[_WORDS]
        else:
            arrays[name] = random.standard_normal(shape, dtype=np.float32) * scale
    if config.pad_token_id is not None:
        arrays[_WORDS][config.pad_token_id] = 0
    return Weights(arrays)


def save(folder: str | Path, config: DistilBertConfig, weights: Mapping[str, FloatArray], architecture: str) -> None:
    """Write `config.json` and `model.safetensors` as transformers does, every tensor in the dtype it is stored in.

    A tied `vocab_projector.weight` is not written twice; one that differs from the word embeddings is written, and the
    config then says `tie_word_embeddings: false`. A crash leaves the old file or the new one, never half of it.

    Args:
        folder: made if needed.
        weights: the tensors of `expected_shapes(config, architecture)`, by canonical name; others are left out.

    Raises:
        CheckpointError: a tensor is missing or misshapen.
        ValueError: an unknown architecture.
    """
    shapes = expected_shapes(config, architecture)
    held = weights if isinstance(weights, Weights) else Weights(weights)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, shape in shapes.items():
        if name not in held:
            raise CheckpointError(f"can't save {architecture}: tensor {name} {list(shape)} is missing")
        tensors[name] = held.raw(name)
        if tensors[name][1].shape != shape:
            raise CheckpointError(f"can't save {architecture}: tensor {name}: expected shape {list(shape)} by the "
                                  f"config, found {list(tensors[name][1].shape)}")  # fmt: skip
    if config.tie_word_embeddings and _PROJECTOR in tensors:
        if tensors[_PROJECTOR][0] == tensors[_WORDS][0] and np.array_equal(tensors[_PROJECTOR][1], tensors[_WORDS][1]):
            del tensors[_PROJECTOR]
        else:
            config = config.replace(tie_word_embeddings=False)
    head = HEADS[architecture]
    named = {name if name in head.tensors else head.encoder_prefix + name: tensor for name, tensor in tensors.items()}
    write_safetensors(target / "model.safetensors", named)
    config.replace(architectures=(architecture,), dtype=held.dtype).save_pretrained(target)
