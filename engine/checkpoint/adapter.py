"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685), as PEFT saves them, merged into the weights of their base.

An adapter adds `scale * B @ A` to a weight `[n, k]`, with `B` `[n, r]` and `A` `[r, k]`. Biases and whole layers that
were trained beside it, such as a classifier, take the places of the base's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from distilrt.checkpoint.files import read_object
from distilrt.checkpoint.source import ADAPTER_CONFIG, Source
from distilrt.checkpoint.tensor_files import FLOAT_DTYPES, FloatArray, SafetensorsFile, Stored, TensorFile
from distilrt.errors import CheckpointError

_WEIGHTS = "adapter_model.safetensors"
_ADVICE = "merge the adapter with PEFT's merge_and_unload() and save the model"
_ARCHITECTURES = {
    "SEQ_CLS": "DistilBertForSequenceClassification",
    "TOKEN_CLS": "DistilBertForTokenClassification",
    "QUESTION_ANS": "DistilBertForQuestionAnswering",
    "FEATURE_EXTRACTION": "DistilBertModel",
}
# What changes the numbers in another way than `scale * B @ A`, by its field in the config.
_OTHERS = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "trainable_token_indices"),
    *("target_parameters", "alora_invocation_tokens", "arrow_config", "kasa_config", "velora_config"),
    *("monteclora_config",),
)
# Initial factors that leave the weights of the base as they are. PiSSA, OLoRA, CorDA, LoftQ and others change these.
_INITIAL = (True, False, None, "gaussian", "eva", "orthogonal")
_MOST_ALPHA, _MOST_PATTERNS = 1e9, 256
# The patterns of layers that are accepted: names, with a few repeated or alternative parts. Python's `re` could take
# hours to match others.
_PARTS = r"\^?(?:(?:[\w.-]|\\[.dw]|\[[\w.]+\]|\[0-9\])[*+]?|\((?:\?:)?[\w.-]+(?:\|[\w.-]+)*\))*\$?"
_PATTERN = re.compile(rf"{_PARTS}(?:\|{_PARTS})*")
_MOST_CHOICES, _LONGEST_PATTERN = 3, 200
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?$")
# PEFT saves these beside the same tensors under their own names.
_BESIDE = re.compile(r"\.original_module\.|\.modules_to_save\.")


class Canonical(Protocol):
    """It maps tensors by their names in the file at `path` to canonical names, see `names.canonical_tensors`."""

    def __call__(self, stored: Mapping[str, Stored], *, path: Path) -> dict[str, Stored]: ...


class _Factors(NamedTuple):
    """A change of a weight, `scale * second @ first`; that of a table of embeddings is transposed."""

    first: Stored
    second: Stored
    scale: np.float32
    transposed: bool


class Adapter(TensorFile):
    """The weights of a base with an adapter's factors added, by canonical name; each is computed as it is read.

    Attributes:
        replaced: the tensors that take the places of the base's, or have no counterpart there.

    Raises:
        OSError: a file is missing.
        CheckpointError: it is no LoRA adapter, changes more than weights, or does not fit the base.
    """

    def __init__(self, source: Source, base: Mapping[str, Stored], canonical: Canonical) -> None:
        self._fields, self._path = _config(source), _weights(source)
        self._alphas = [(re.compile(_of_layers(text)), alpha) for text, alpha in _alphas(self._fields).items()]
        self.origin = f"{self._path}, merged,"
        parts = self._parts()
        self.replaced = canonical(parts["weight"], path=self._path)
        self._weights = {**base, **self.replaced}
        self._check_saved(base)
        first, second = (canonical(parts[part], path=self._path) for part in "AB")
        self._factors = {name: self._checked(name, first.get(name), second.get(name)) for name in {**first, **second}}
        self.specs = {name: ("float32", self._weights[name].shape) for name in self._factors}

    def raw(self, name: str) -> FloatArray:
        """The merged weight, computed anew at each access."""
        first, second, scale, transposed = self._factors[name]
        with np.errstate(over="ignore", invalid="ignore"):  # The use of a weight refuses what is not finite.
            change = (second.load() @ first.load()) * scale
            whole: FloatArray = self._weights[name].load() + (change.T if transposed else change)
        return whole

    def _parts(self) -> dict[str, dict[str, Stored]]:
        """The tensors of the file: the factors "A" and "B" by their weight's name, and the "weight"s by their own."""
        file = SafetensorsFile(self._path)
        file.origin = str(self._path)
        if not file.specs:
            raise CheckpointError(f"{self._path} has no tensors; save the adapter anew with PEFT's save_pretrained()")
        parts: dict[str, dict[str, Stored]] = {"A": {}, "B": {}, "weight": {}}
        for name, tensor in file.tensors().items():
            own = _own_name(name)
            factor = _FACTOR.match(own)
            if _BESIDE.search(own):
                continue
            if "lora_" in own and not factor:
                raise CheckpointError(f"{self._path} has {name}, which is no LoRA factor; {_ADVICE}")
            if tensor.dtype not in FLOAT_DTYPES:
                raise CheckpointError(
                    f"{self._path} has {name} of {tensor.dtype}, allowed are {', '.join(FLOAT_DTYPES)}; save the "
                    "adapter in one of these"
                )
            part, own = (factor[3], f"{factor[1]}.weight") if factor else ("weight", own)
            if twin := parts[part].get(own):
                raise CheckpointError(f"{self._path} has both {twin.name} and {name}, which are the same; remove one")
            parts[part][own] = tensor
        return parts

    def _check_saved(self, base: Mapping[str, Stored]) -> None:
        """Refuse an adapter that lacks a layer that was trained whole, as one that PEFT converted from PiSSA does."""
        saved = set(self._fields.get("modules_to_save") or ())
        there = {base[name].name for name in self.replaced if name in base}
        for own in {tensor.name for tensor in base.values()} - there:
            if not saved.isdisjoint(own.split(".")):
                raise CheckpointError(f"{self._path} lacks {own}, though modules_to_save names it; {_ADVICE}")

    def _checked(self, name: str, first: Stored | None, second: Stored | None) -> _Factors:
        """The factors of a weight, which must be there and fit them."""
        there = [factor for factor in (second, first) if factor is not None]
        tensor, whole = there[0].name, self._weights.get(name)
        if whole is None:
            raise CheckpointError(f"{self._path} has {tensor}, for a layer that its base does not have")
        if name in self.replaced and ".base_layer." not in self.replaced[name].name:
            raise CheckpointError(
                f"{self._path} has {tensor} and also {self.replaced[name].name}, which takes the place of the same "
                "weight; remove one"
            )
        module, transposed = _own_name(tensor).partition(".lora_")[0], "lora_embedding_" in tensor
        shapes, shape = [factor.shape for factor in there], whole.shape[::-1] if transposed else whole.shape
        rank = shapes[-1][:1]
        if first is None or second is None or len(shape) != 2 or shapes != [(shape[0], *rank), (*rank, shape[1])]:
            raise CheckpointError(
                f"{self._path} has factors {[*map(list, shapes)]} of {module}, whose weight is {list(whole.shape)}; "
                "adapter and base don't belong together"
            )
        if 0 in rank:
            raise CheckpointError(f"{self._path} has factors of rank 0 of {module}; save the adapter anew")
        alpha = next((alpha for layers, alpha in self._alphas if layers.match(module)), _alpha(self._fields))
        scale = np.float32(alpha / (math.sqrt(rank[0]) if self._fields.get("use_rslora") else rank[0]))
        return _Factors(first, second, scale, transposed)


def merged(base: Mapping[str, Stored], source: Source, canonical: Canonical) -> dict[str, Stored]:
    """The base's tensors, by canonical name, with the adapter of a source merged in.

    Raises:
        OSError, CheckpointError: as `Adapter`.
    """
    adapter = Adapter(source, base, canonical)
    return {**base, **adapter.replaced, **adapter.tensors()}


def head(source: Source) -> dict[str, Any]:
    """What an adapter says of its model's config: `architectures` by its task, and `num_labels` by its classifier.

    Raises:
        OSError, CheckpointError: as `Adapter`.
    """
    found: dict[str, Any] = {}
    if architecture := _ARCHITECTURES.get(_config(source).get("task_type") or ""):
        found["architectures"] = (architecture,)
    path = _weights(source)
    for name, (_, shape) in SafetensorsFile(path).specs.items():
        if name.endswith(".classifier.weight") and len(shape) == 2:
            if shape[0] == 0:
                raise CheckpointError(f"{path} has {name} {list(shape)}, a classifier without labels; use another one")
            found["num_labels"] = shape[0]
    return found


def _config(source: Source) -> dict[str, Any]:
    path = source.file(ADAPTER_CONFIG)
    if path is None:
        raise FileNotFoundError(
            f"{source} has no {ADAPTER_CONFIG}; an adapter is a folder or repository that PEFT saved"
        )
    fields = read_object(path)
    if fields.get("peft_type") != "LORA":
        raise CheckpointError(f"{path} has peft_type {fields.get('peft_type')!r}, distilrt merges 'LORA'; {_ADVICE}")
    alphas, task = _alphas(fields), fields.get("task_type")
    if not isinstance(alphas, dict) or not isinstance(task, str | None):
        raise CheckpointError(f"{path} has alpha_pattern {alphas!r:.80} and task_type {task!r:.80}; PEFT saves no such")
    saved = fields.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        raise CheckpointError(f"{path} has modules_to_save that are no names of layers; save the adapter anew")
    _check_patterns(path, list(alphas))
    for alpha in (_alpha(fields), *alphas.values()):
        if type(alpha) not in (int, float) or not abs(alpha) <= _MOST_ALPHA:
            raise CheckpointError(
                f"{path} has a lora_alpha or alpha_pattern that is no number from {-_MOST_ALPHA:g} to {_MOST_ALPHA:g}; "
                "save the adapter anew"
            )
    for name in _OTHERS:
        if fields.get(name):
            raise CheckpointError(f"{path} has {name}={fields[name]!r:.80}, which distilrt does not merge; {_ADVICE}")
    initial = fields.get("init_lora_weights", True)
    if initial not in _INITIAL:
        raise CheckpointError(
            f"{path} has init_lora_weights={initial!r:.80}, which changes the weights of the base; give PEFT's "
            f"save_pretrained() path_initial_model_for_weight_conversion, which saves a plain adapter, or {_ADVICE}"
        )
    return fields


def _alpha(fields: dict[str, Any]) -> Any:
    return fields.get("lora_alpha", 8)


def _alphas(fields: dict[str, Any]) -> Any:
    """Other values of alpha by a pattern of layers' names."""
    return fields.get("alpha_pattern") or {}


def _check_patterns(path: Path, patterns: list[str]) -> None:
    """Refuse patterns of layers that may take long to match."""
    if len(patterns) > _MOST_PATTERNS:
        raise CheckpointError(f"{path} has {len(patterns)} alpha_patterns, {_MOST_PATTERNS} are allowed; {_ADVICE}")
    for text in patterns:
        choices = sum(map(text.count, "*+("))
        if len(text) > _LONGEST_PATTERN or choices > _MOST_CHOICES or not _PATTERN.fullmatch(text):
            raise CheckpointError(
                f"{path} has the alpha_pattern {text[:80]!r}; allowed are names of layers with '.*', '\\d+' or '(a|b)' "
                f"{_MOST_CHOICES} times at most; name the layers, or {_ADVICE}"
            )


def _of_layers(pattern: str) -> str:
    """PEFT's form of a pattern: it matches the end of a layer's name."""
    return rf"(.*\.)?({pattern})$"


def _own_name(name: str) -> str:
    """The name that a tensor of an adapter, or its layer, has in the model."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _weights(source: Source) -> Path:
    path = source.file(_WEIGHTS)
    if path is None:
        raise FileNotFoundError(f"{source} has no {_WEIGHTS}; save the adapter anew with PEFT's save_pretrained()")
    return path
