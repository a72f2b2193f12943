"""The files of a sentence-transformers folder: what they say, as a `SentenceVectors`, and copies of them.

A folder is followed whole or refused: a module, mode or field that would change an answer and is not known here is an
error that names the file, and is never left out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from distilrt.checkpoint.files import read_object, read_value
from distilrt.checkpoint.sentence_modules import ALONE, TRANSFORMERS, Fields, Module, listed
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.weight_files import WEIGHT_FILES
from distilrt.errors import CheckpointError
from distilrt.model.heads import ENCODER, HEADS, Head
from distilrt.model.sentence_vectors import (
    ACTIVATIONS,
    POOLING,
    SIMILARITY,
    Dense,
    LayerNorm,
    Normalize,
    SentenceVectors,
    Splade,
)

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
# The transformer module's own settings. sentence-transformers takes the first file that is not empty.
_MODELS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
TRANSFORMER_SETTINGS = tuple(f"sentence_{name}_config.json" for name in _MODELS)
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_WIDTHS = ("embedding_dimension", "word_embedding_dimension")  # fields that repeat the width of the rows
# Options of a tokenizer's call that change nothing in what the model reads.
_HARMLESS = ("padding", "pad_to_multiple_of", "return_tensors", "return_attention_mask", "return_token_type_ids")


class _Use(NamedTuple):
    """What a transformer module is used for."""

    head: Head
    feature: str  # what sentence-transformers calls the head's output
    model_type: str  # of the whole folder
    read: Callable[[list[Module], Path], dict[str, Any]]  # the encoder's fields, from the modules that follow


def read(source: Source) -> SentenceVectors | None:
    """What a checkpoint's sentence-transformers files say; None where it has no `modules.json`.

    Raises:
        CheckpointError: a file is malformed or missing, or asks for what is not supported.
    """
    path = source.file(MODULES)
    if path is None:
        return None
    transformer, *modules = listed(path, source)
    if transformer.kind not in TRANSFORMERS:
        raise CheckpointError(f"{path}: the first module must be a Transformer, found {transformer}; {ALONE}")
    use, found = _transformer(transformer)
    found |= use.read(modules, path)
    settings = source.file(SETTINGS)
    if settings is not None:
        found |= _settings(Fields(read_object(settings), settings), use, found)
    return SentenceVectors(**found)


def copy(source: Source, target: Path, *names: str) -> None:
    """Copy the files beside the transformer's weights that answers depend on, and remove older ones from `target`.

    The transformer's files `names`, and those that sentence-transformers has beside them, go to the root of `target`.
    """
    index, text = source.file(MODULES), None
    paths = dict(zip(names, names, strict=True))  # from a path in the target to that in the source
    if index is not None:
        transformer, *modules = listed(index, source)
        paths = {name: transformer.path(name) for name in (*names, *TRANSFORMER_SETTINGS)} | {SETTINGS: SETTINGS}
        for module in modules:
            if module.folder:
                paths |= {module.path(name): module.path(name) for name in ("config.json", *WEIGHT_FILES)}
        first, *others = read_value(index)
        text = json.dumps([first | {"path": ""}, *others], indent=2)
    for name, path in paths.items():
        original, copied = source.file(path), target / name
        if original is None:
            copied.unlink(missing_ok=True)
        elif not (copied.exists() and copied.samefile(original)):
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(original, copied)
    (target / MODULES).unlink(missing_ok=True)
    if text is not None:
        (target / MODULES).write_text(text + "\n", encoding="utf-8")


def _transformer(module: Module) -> tuple[_Use, dict[str, Any]]:
    """What the module is used for, and the encoder's architecture, folder, max_length and lower_case."""
    files: Iterator[Fields] = (module.fields(name) for name in TRANSFORMER_SETTINGS)
    config = next((found for found in files if found.values), Fields({}, module.path(TRANSFORMER_SETTINGS[0])))
    use = _USES[config.choice("transformer_task", TRANSFORMERS[module.kind], *_USES)]
    for name in ("tokenizer_name_or_path", "query_length", "document_length", "query_expansion"):
        config.choice(name, None, None)
    for name in ("config_kwargs", "config_args"):
        config.group(name).refuse_others()
    if "modality_config" in config.values:
        text = config.group("modality_config").group("text")
        text.choice("method", None, "forward")
        text.choice("method_output_name", None, *use.head.fields)
        config.choice("module_output_name", use.feature, use.feature)
    length = config.count("max_seq_length")
    for name in ("processor_kwargs", "tokenizer_kwargs", "tokenizer_args"):
        options = config.group(name)
        options.refuse_others("model_max_length", "use_fast", "padding_side")
        length = options.count("model_max_length") or length
    calls = config.group("processing_kwargs")
    for options in (calls.group("common"), calls.group("text")):
        options.refuse_others("max_length", "truncation", *_HARMLESS)
        options.choice("truncation", True, True, "longest_first")
        length = options.count("max_length") or length
    lower_case = config.flag("do_lower_case", False)
    found = {"architecture": use.head.architecture, "folder": module.folder}
    return use, found | {"max_length": length, "lower_case": lower_case}


def _dense(modules: list[Module], path: Path) -> dict[str, Any]:
    """The encoder's pooling, include_prompt and layers."""
    if not modules or modules[0].kind != "Pooling":
        found = modules[0] if modules else "nothing"
        raise CheckpointError(
            f"{path}: after the Transformer there must be a Pooling, found {found}; the file is cut, or {ALONE}"
        )
    config = modules[0].fields(needed=True)
    config.refuse_others(*_WIDTHS, "pooling_mode", "include_prompt", *_POOLING_FLAGS)
    flagged = [mode for flag, mode in _POOLING_FLAGS.items() if config.flag(flag, False)]
    modes = config.values.get("pooling_mode", flagged or "mean")
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or any(mode not in [*POOLING] for mode in modes):
        raise CheckpointError(
            f"{config.file}: pooling_mode must be one or several of {', '.join(POOLING)}, found {modes!r:.80}"
        )
    layers = [_layer(module, path) for module in modules[1:] if module.kind != "Dropout"]  # which does nothing here
    return {"pooling": tuple(modes), "include_prompt": config.flag("include_prompt", True), "layers": tuple(layers)}


def _layer(module: Module, path: Path) -> Dense | LayerNorm | Normalize:
    if module.kind not in ("Dense", "LayerNorm", "Normalize"):
        raise CheckpointError(f"{path}: module {module} is not supported after a Pooling; {ALONE}")
    config = module.fields(needed=module.kind != "Normalize")
    for name in ("module_input_name", "module_output_name"):
        config.choice(name, None, None, "sentence_embedding")
    if module.kind == "Normalize":
        return Normalize(str(module))
    if module.kind == "LayerNorm":
        width = config.count("dimension") or 0
        weights = module.tensors({"norm.weight": (width,), "norm.bias": (width,)})
        return LayerNorm(str(module), weights["norm.weight"], weights["norm.bias"])
    name = config.get("activation_function", "torch.nn.Tanh", f"torch.nn's {', '.join(ACTIVATIONS)}", _is_activation)
    columns, rows = config.count("in_features") or 0, config.count("out_features") or 0
    residual = config.flag("use_residual", False)
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (rows, columns)}
    if config.flag("bias", True):
        shapes["linear.bias"] = (rows,)
    if residual and rows != columns:
        shapes["residual.weight"] = (rows, columns)
    weights = module.tensors(shapes)
    return Dense(
        str(module),
        weights["linear.weight"],
        weights.get("linear.bias"),
        name.rpartition(".")[2],
        residual,
        weights.get("residual.weight"),
    )


def _splade(modules: list[Module], path: Path) -> dict[str, Any]:
    """The encoder's sparse vectors."""
    if [module.kind for module in modules] != ["SpladePooling"]:
        found = ", ".join(map(str, modules)) or "nothing"
        raise CheckpointError(
            f"{path}: after a transformer for fill-mask there must be one SpladePooling, found {found}"
        )
    config = modules[0].fields()
    config.refuse_others(*_WIDTHS, "pooling_strategy", "activation_function", "chunk_size")
    total = config.choice("pooling_strategy", "max", "max", "sum") == "sum"
    twice = config.choice("activation_function", "relu", "relu", "log1p_relu") == "log1p_relu"
    return {"splade": Splade(total, twice)}


def _nothing(modules: list[Module], path: Path) -> dict[str, Any]:
    """No fields: no module may follow."""
    if modules:
        raise CheckpointError(f"{path}: module {modules[0]} is not supported after a sequence classifier; {ALONE}")
    return {}


def _settings(config: Fields, use: _Use, found: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder's prompts, truncate_dim and similarity, and how many weights of a sparse vector are kept."""
    config.choice("model_type", use.model_type, use.model_type)
    named = {name: text or "" for name, text in config.group("prompts").values.items()}
    if not all(isinstance(text, str) for text in named.values()):
        raise CheckpointError(f"{config.file}: prompts must be strings, found {named!r:.80}")
    # sentence-transformers knows these two in every model; by themselves they are empty.
    default = config.choice("default_prompt_name", None, None, *named, "query", "document")
    prompts = {name: text for name, text in named.items() if name}
    prompts[""] = named.get(default, "") if default else ""
    similarity = config.choice("similarity_fn_name", None, None, *SIMILARITY) or "cosine"
    settings: dict[str, Any] = {"prompts": prompts, "default_prompt_name": default, "similarity": similarity}
    settings["truncate_dim"] = config.count("truncate_dim")
    most = config.count("max_active_dims")
    if "splade" in found and most is not None:
        settings["splade"] = replace(found["splade"], most=most)
    return settings


def _is_activation(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("torch.nn.") and value.rpartition(".")[2] in ACTIVATIONS


# By the task of a transformer module.
_USES = {
    "feature-extraction": _Use(ENCODER, "token_embeddings", "SentenceTransformer", _dense),
    "fill-mask": _Use(HEADS["DistilBertForMaskedLM"], "token_embeddings", "SparseEncoder", _splade),
    "sequence-classification": _Use(HEADS["DistilBertForSequenceClassification"], "scores", "CrossEncoder", _nothing),
}
