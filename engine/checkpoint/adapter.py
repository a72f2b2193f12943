"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685), as PEFT saves them, merged into the weights of their base.

An adapter adds `scale * B @ A` to a weight `[n, k]`, with `B` `[n, r]` and `A` `[r, k]`. Biases and whole layers that
were trained beside it, such as a classifier, take the places of the base's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distilrt.checkpoint.files import read_object
from distilrt.checkpoint.source import ADAPTER_CONFIG, Source
from distilrt.checkpoint.tensor_files import FloatArray, SafetensorsFile, Stored, TensorFile
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
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?$")
# PEFT saves these beside the same tensors under their own names.
_BESIDE = re.compile(r"\.original_module\.|\.modules_to_save\.")


class Adapter(TensorFile):
    """The tensors that an adapter changes, by their names in its base's files or else canonical ones.

    Raises:
        OSError: a file is missing.
        CheckpointError: it is no LoRA adapter, changes more than weights, or does not fit the base.
    """

    def __init__(self, source: Source, base: Mapping[str, Stored], canonical: Callable[[str], str]) -> None:
        self._fields, self._path = _config(source), _weights(source)
        self._file = SafetensorsFile(self._path)
        self._base = base
        self._places = {canonical(name): name for name in base}
        self._factors: dict[str, dict[str, str]] = {}  # by a weight's name: the names of A and B
        self._modules: dict[str, str] = {}  # by a weight's name: its module as PEFT calls it
        self._replaced: dict[str, str] = {}
        for name in self._file.specs:
            self._settle(name, canonical)
        self.specs = {name: ("float32", self._file.specs[own][1]) for name, own in self._replaced.items()}
        self.specs |= {name: ("float32", self._checked(name)) for name in self._factors}

    def raw(self, name: str) -> FloatArray:
        """The merged weight, computed anew at each access; or what takes the place of the base's."""
        if name in self._replaced:
            return self._file.load(self._replaced[name])
        first, second = (self._file.load(self._factors[name][part]) for part in "AB")
        change = (second @ first) * np.float32(self._scale(name))
        whole: FloatArray = self._base[name].load() + (change.T if self._of_embedding(name) else change)
        return whole

    def _settle(self, name: str, canonical: Callable[[str], str]) -> None:
        """Note what a tensor of the adapter's file is."""
        own = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        factor = _FACTOR.match(own)
        if _BESIDE.search(own):
            return
        if factor:
            place = self._places.get(canonical(f"{factor[1]}.weight"))
            if place is None:
                raise CheckpointError(f"{self._path} has {name}, for a layer that its base does not have")
            self._factors.setdefault(place, {})[factor[3]] = name
            self._modules[place] = factor[1]
        elif "lora_" in own:
            raise CheckpointError(f"{self._path} has {name}, which is no LoRA factor; {_ADVICE}")
        else:
            self._replaced[self._places.get(canonical(own), canonical(own))] = name

    def _of_embedding(self, name: str) -> bool:
        return any("lora_embedding_" in factor for factor in self._factors[name].values())

    def _checked(self, name: str) -> tuple[int, ...]:
        """The shape of a weight with factors, which must fit it."""
        factors, shape = self._factors[name], self._base[name].shape
        shapes = [self._file.specs[factors[part]][1] for part in "BA" if part in factors]
        rank, whole = shapes[-1][:1], shape[::-1] if self._of_embedding(name) else shape
        if len(whole) != 2 or shapes != [(whole[0], *rank), (*rank, whole[1])]:
            raise CheckpointError(
                f"{self._path} has factors {[*map(list, shapes)]} of {self._modules[name]}, whose weight is "
                f"{list(shape)}; adapter and base don't belong together"
            )
        return shape

    def _scale(self, name: str) -> float:
        """PEFT's scaling: alpha over the rank, or over its root."""
        alpha = self._fields.get("lora_alpha", 8)
        for pattern, value in (self._fields.get("alpha_pattern") or {}).items():
            if re.match(_of_layers(pattern), self._modules[name]):
                alpha = value
                break
        rank = self._file.specs[self._factors[name]["A"]][1][0]
        return float(alpha / math.sqrt(rank) if self._fields.get("use_rslora") else alpha / rank)


def merged(base: Mapping[str, Stored], source: Source, canonical: Callable[[str], str]) -> dict[str, Stored]:
    """The base's tensors with the adapter of a source merged in; nothing is computed before they are read.

    Raises:
        OSError, CheckpointError: as `Adapter`.
    """
    return {**base, **Adapter(source, base, canonical).tensors()}


def head(source: Source) -> dict[str, Any]:
    """What an adapter says of its model's config: `architectures` by its task, and `num_labels` by its classifier.

    Raises:
        OSError, CheckpointError: as `Adapter`.
    """
    found: dict[str, Any] = {}
    if architecture := _ARCHITECTURES.get(_config(source).get("task_type") or ""):
        found["architectures"] = (architecture,)
    for name, (_, shape) in SafetensorsFile(_weights(source)).specs.items():
        if name.endswith(".classifier.weight") and len(shape) == 2:
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
    alphas, task = fields.get("alpha_pattern") or {}, fields.get("task_type")
    if not isinstance(alphas, dict) or not all(map(_is_pattern, alphas)) or not isinstance(task, str | None):
        raise CheckpointError(f"{path} has alpha_pattern {alphas!r:.80} and task_type {task!r:.80}; PEFT saves no such")
    if not all(type(alpha) in (int, float) for alpha in (fields.get("lora_alpha", 8), *alphas.values())):
        raise CheckpointError(f"{path} has a lora_alpha or alpha_pattern that is no number; save the adapter anew")
    for name in _OTHERS:
        if fields.get(name):
            raise CheckpointError(f"{path} has {name}={fields[name]!r}, which distilrt does not merge; {_ADVICE}")
    return fields


def _of_layers(pattern: str) -> str:
    """PEFT's form of a pattern: it matches the end of a layer's name."""
    return rf"(.*\.)?({pattern})$"


def _is_pattern(text: str) -> bool:
    try:
        re.compile(_of_layers(text))
    except re.error:
        return False
    return True


def _weights(source: Source) -> Path:
    path = source.file(_WEIGHTS)
    if path is None:
        raise FileNotFoundError(f"{source} has no {_WEIGHTS}; save the adapter anew with PEFT's save_pretrained()")
    return path
