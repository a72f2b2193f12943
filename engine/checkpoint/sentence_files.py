"""The files of a sentence-transformers folder: what they say, as a `SentenceEncoder`, and copies of them.

A folder is followed whole or refused: a module, mode or field that would change an answer and is not known here is an
error that names the file, and is never left out. Modules are known by the names of their classes, old and new ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distilrt.checkpoint.files import read_object, read_value
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.tensor_files import FloatArray
from distilrt.checkpoint.weight_files import WEIGHT_FILES, open_tensors
from distilrt.checkpoint.weights import Weights, check_tensor
from distilrt.errors import CheckpointError
from distilrt.model.sentence_encoder import (
    ACTIVATIONS,
    POOLING,
    SIMILARITY,
    Dense,
    LayerNorm,
    Normalize,
    SentenceEncoder,
    Splade,
)

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
# The transformer module's own settings. sentence-transformers takes the first file that is not empty.
_MODELS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
TRANSFORMER_SETTINGS = tuple(f"sentence_{name}_config.json" for name in _MODELS)
# The class of a transformer module, and the task that it has where its settings name none.
_TRANSFORMERS = {
    "Transformer": "feature-extraction",
    "DistilBERT": "feature-extraction",
    "BERT": "feature-extraction",
    "MLMTransformer": "fill-mask",
}
# The task of a transformer module, and its architecture, the output that is used, the feature that holds it, and the
# folder's model_type.
_TASKS = {
    "feature-extraction": ("DistilBertModel", "last_hidden_state", "token_embeddings", "SentenceTransformer"),
    "fill-mask": ("DistilBertForMaskedLM", "logits", "token_embeddings", "SparseEncoder"),
    "sequence-classification": ("DistilBertForSequenceClassification", "logits", "scores", "CrossEncoder"),
}
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
_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout", "SpladePooling")
_ALONE = (
    "to compute without these modules, load the transformer with distilrt.DistilBertModel.from_pretrained and give it "
    "with its tokenizer"
)


@dataclass(frozen=True, slots=True)
class _Fields:
    """A JSON object, and the name of the file that it is from."""

    values: Mapping[str, Any]
    file: str | Path

    def get(self, name: str, default: Any, allowed: str, accepts: Callable[[Any], bool]) -> Any:
        """A field's value if `accepts` takes it; `allowed` says in words what it may be."""
        value = self.values.get(name, default)
        if not accepts(value):
            raise CheckpointError(f"{self.file}: {name} must be {allowed}, found {value!r:.80}")
        return value

    def choice(self, name: str, default: Any, *values: Any) -> Any:
        """A field that must be one of some values."""
        return self.get(name, default, f"one of {', '.join(map(repr, values))}", lambda value: value in [*values])

    def flag(self, name: str, default: bool) -> bool:
        """A field that is true or false."""
        return bool(self.get(name, default, "true or false", lambda value: isinstance(value, bool)))

    def count(self, name: str) -> int | None:
        """A field that is a positive integer or null."""
        found: int | None = self.get(name, None, "null or an integer of at least 1", _is_count_or_none)
        return found

    def group(self, name: str) -> _Fields:
        """A field that is an object itself; an empty one where it is missing or null."""
        value = self.get(name, None, "an object", lambda value: value is None or isinstance(value, dict))
        return _Fields(value or {}, f"{self.file}: {name}")

    def refuse_others(self, *known: str) -> None:
        """Refuse fields that are not `known`."""
        if others := [name for name in self.values if name not in known]:
            raise CheckpointError(
                f"{self.file}: {others[0]} is not supported; known are {', '.join(known) or 'none'}; {_ALONE}"
            )


@dataclass(frozen=True, slots=True)
class _Module:
    """An entry of `modules.json`.

    Attributes:
        kind: the name of its class.
        folder: its folder within the whole one.
        whole: the source of the whole folder.
    """

    kind: str
    folder: str
    whole: Source

    def __str__(self) -> str:
        return f"{self.folder or '(root)'} of type {self.kind}"

    def path(self, name: str) -> str:
        """The path of one of its files within the whole folder."""
        return f"{self.folder}/{name}" if self.folder else name

    def fields(self, name: str = "config.json", *, needed: bool = False) -> _Fields:
        """A JSON file of the module; an empty object where it has none.

        Raises:
            CheckpointError: the file is needed and not there.
        """
        path = self.path(name)
        found = self.whole.file(path)
        if found is None and needed:
            raise CheckpointError(
                f"modules.json names the module {self}, and {path} is not there; fetch the whole folder"
            )
        return _Fields({}, path) if found is None else _Fields(read_object(found), found)

    def tensors(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, FloatArray]:
        """The module's weights by name, which must be these, of these shapes.

        Raises:
            CheckpointError: a tensor is missing, of another shape, or not of finite numbers.
        """
        try:
            stored, path = open_tensors(self.whole.within(self.folder))
        except FileNotFoundError as error:
            raise CheckpointError(f"modules.json: module {self} has no weights: {error}") from error
        if stored.keys() != shapes.keys():
            raise CheckpointError(
                f"{path}: module {self} must have the tensors {', '.join(shapes)}, found {', '.join(stored) or 'none'}"
            )
        for name, shape in shapes.items():
            check_tensor(name, stored[name], shape, path)
        return dict(Weights(stored, str(path)))


def read(source: Source) -> SentenceEncoder | None:
    """What a checkpoint's sentence-transformers files say; None where it has no `modules.json`.

    Raises:
        CheckpointError: a file is malformed or missing, or asks for what is not supported.
    """
    path = source.file(MODULES)
    if path is None:
        return None
    transformer, *modules = _modules(path, source)
    if transformer.kind not in _TRANSFORMERS:
        raise CheckpointError(f"{path}: the first module must be a Transformer, found {transformer}; {_ALONE}")
    found = _transformer(transformer)
    if found["architecture"] == "DistilBertModel":
        found |= _dense(modules, path)
    elif found["architecture"] == "DistilBertForMaskedLM":
        if [module.kind for module in modules] != ["SpladePooling"]:
            raise CheckpointError(
                f"{path}: after a transformer for fill-mask there must be one SpladePooling, found "
                f"{', '.join(map(str, modules)) or 'nothing'}"
            )
        found["splade"] = _splade(modules[0])
    elif modules:
        raise CheckpointError(f"{path}: module {modules[0]} is not supported after a sequence classifier; {_ALONE}")
    settings = source.file(SETTINGS)
    if settings is not None:
        found |= _settings(_Fields(read_object(settings), settings), found)
    return SentenceEncoder(**found)


def copy(source: Source, target: Path, *names: str) -> None:
    """Copy the files beside the transformer's weights that answers depend on, and remove older ones from `target`.

    Args:
        source: of the whole folder.
        target: a folder, which gets the transformer's files at its root.
        names: files of the transformer to be copied, beside those of sentence-transformers.
    """
    listed, text = source.file(MODULES), None
    paths = dict(zip(names, names, strict=True))  # from a path in the target to that in the source
    if listed is not None:
        transformer, *modules = _modules(listed, source)
        paths = {name: transformer.path(name) for name in (*names, *TRANSFORMER_SETTINGS)} | {SETTINGS: SETTINGS}
        for module in modules:
            if module.folder:
                paths |= {module.path(name): module.path(name) for name in ("config.json", *WEIGHT_FILES)}
        first, *others = read_value(listed)
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


def _modules(path: Path, source: Source) -> list[_Module]:
    """The modules that `modules.json` lists, at least one."""
    listed = read_value(path)
    if not isinstance(listed, list) or not listed:
        raise CheckpointError(f"{path} must hold a list of at least one module, found {listed!r:.80}")
    found = []
    for index, entry in enumerate(listed):
        kind, folder = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(folder, str):
            raise CheckpointError(
                f"{path}: module {index} must be an object with the strings type and path, found {entry!r:.80}"
            )
        parts = folder.replace("\\", "/").strip("/").split("/")
        if Path(folder).is_absolute() or ".." in parts:
            raise CheckpointError(f"{path}: path of module {index} must lie within the folder, found {folder!r:.80}")
        library, _, name = kind.partition(".")
        name = name.rpartition(".")[2]
        if library != "sentence_transformers" or name not in (*_KNOWN, *_TRANSFORMERS):
            raise CheckpointError(
                f"{path}: module {index} is of type {kind!r:.80}, which is not supported; known are those of "
                f"sentence_transformers called {', '.join(_KNOWN)}; {_ALONE}"
            )
        found.append(_Module(name, "/".join(part for part in parts if part not in ("", ".")), source))
    return found


def _transformer(module: _Module) -> dict[str, Any]:
    """The encoder's architecture, folder, max_length and lower_case."""
    files: Iterator[_Fields] = (module.fields(name) for name in TRANSFORMER_SETTINGS)
    config = next((found for found in files if found.values), _Fields({}, module.path(TRANSFORMER_SETTINGS[0])))
    task = config.choice("transformer_task", _TRANSFORMERS[module.kind], *_TASKS)
    architecture, output, feature, _ = _TASKS[task]
    for name in ("tokenizer_name_or_path", "query_length", "document_length", "query_expansion"):
        config.choice(name, None, None)
    for name in ("config_kwargs", "config_args"):
        config.group(name).refuse_others()
    if "modality_config" in config.values:
        text = config.group("modality_config").group("text")
        text.choice("method", None, "forward")
        text.choice("method_output_name", None, output)
        config.choice("module_output_name", feature, feature)
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
    return {"architecture": architecture, "folder": module.folder, "max_length": length, "lower_case": lower_case}


def _dense(modules: list[_Module], path: Path) -> dict[str, Any]:
    """The encoder's pooling, include_prompt and layers."""
    if not modules or modules[0].kind != "Pooling":
        found = modules[0] if modules else "nothing"
        raise CheckpointError(
            f"{path}: after the Transformer there must be a Pooling, found {found}; the file is cut, or {_ALONE}"
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


def _layer(module: _Module, path: Path) -> Dense | LayerNorm | Normalize:
    if module.kind not in ("Dense", "LayerNorm", "Normalize"):
        raise CheckpointError(f"{path}: module {module} is not supported after a Pooling; {_ALONE}")
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


def _splade(module: _Module) -> Splade:
    config = module.fields()
    config.refuse_others(*_WIDTHS, "pooling_strategy", "activation_function", "chunk_size")
    return Splade(
        total=config.choice("pooling_strategy", "max", "max", "sum") == "sum",
        twice=config.choice("activation_function", "relu", "relu", "log1p_relu") == "log1p_relu",
    )


def _settings(config: _Fields, found: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder's prompts, truncate_dim and similarity, and how many weights of a sparse vector are kept."""
    model_type = next(model_type for name, _, _, model_type in _TASKS.values() if name == found["architecture"])
    config.choice("model_type", model_type, model_type)
    named = {name: text or "" for name, text in config.group("prompts").values.items()}
    if not all(isinstance(text, str) for text in named.values()):
        raise CheckpointError(f"{config.file}: prompts must be strings, found {named!r:.80}")
    # sentence-transformers knows these two in every model; by themselves they are empty.
    default = config.choice("default_prompt_name", None, None, *named, "query", "document")
    prompts = {name: text for name, text in named.items() if name}
    prompts[""] = named.get(default, "") if default else ""
    similarity = config.choice("similarity_fn_name", None, None, *SIMILARITY) or "cosine"
    settings = {"prompts": prompts, "truncate_dim": config.count("truncate_dim"), "similarity": similarity}
    most = config.count("max_active_dims")
    if "splade" in found and most is not None:
        settings["splade"] = replace(found["splade"], most=most)
    return settings


def _is_count_or_none(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 1)


def _is_activation(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("torch.nn.") and value.rpartition(".")[2] in ACTIVATIONS
