"""Modules that were replaced, hooked or wrapped are noticed; those that compute another thing are refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn.utils import prune

from distilrt.dropin.modules import ModuleFile, Structure, check


def model_of() -> Any:
    config: Any = transformers.DistilBertConfig
    sizes = {"dim": 32, "n_heads": 2, "n_layers": 2, "hidden_dim": 40, "vocab_size": 20, "max_position_embeddings": 8}
    model: Any = transformers.DistilBertForSequenceClassification(config(**sizes))
    return model.eval()


class Halved(nn.Linear):
    """A linear layer that computes another thing than its class does."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) / 2


class Renamed(nn.Linear):
    """A linear layer that computes what its class does."""


def in_place_of(layer: nn.Linear, cls: Any) -> nn.Linear:
    made: nn.Linear = cls(layer.in_features, layer.out_features)
    made.load_state_dict(layer.state_dict())
    return made


def replace(cls: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        ffn = model.distilbert.transformer.layer[1].ffn
        ffn.lin1 = in_place_of(ffn.lin1, cls)

    return change


def swap_layers(model: Any) -> None:
    layers = model.distilbert.transformer.layer
    layers[0], layers[1] = layers[1], layers[0]


EXACT: dict[str, Callable[[Any], object]] = {
    "a layer by its like": replace(nn.Linear),
    "a class that changes nothing": replace(Renamed),
    "layers swapped": swap_layers,
    "a head replaced": lambda m: setattr(m, "classifier", nn.Linear(32, 2)),
}
QUANTIZE: Any = torch.ao.quantization.quantize_dynamic
PRUNE: Any = prune.random_unstructured
REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "a class of one's own": (replace(Halved), r"layer\.1\.ffn\.lin1 .* is a .*Halved, which computes another thing"),
    "another activation": (
        lambda m: setattr(m.distilbert.transformer.layer[0].ffn, "activation", nn.ReLU()),
        r"layer\.0\.ffn\.activation of this DistilBertForSequenceClassification is a .*ReLU",
    ),
    "a hook": (
        lambda m: m.pre_classifier.register_forward_hook(lambda *a: None),
        "pre_classifier of .* has a hook, which would not run",
    ),
    "a hook before": (
        lambda m: m.distilbert.transformer.layer[0].register_forward_pre_hook(lambda *a: None),
        r"layer\.0 of .* has a hook, which would not run",
    ),
    "a forward of its own": (
        lambda m: setattr(m.classifier, "forward", lambda x: x),
        "classifier of .* has a forward of its own",
    ),
    "a parametrization": (
        lambda m: nn.utils.parametrizations.weight_norm(m.classifier),
        "classifier of .* has a parametrization; merge an adapter",
    ),
    "dynamic quantization": (
        lambda m: QUANTIZE(m, inplace=True),
        r"is a torch\.ao\.nn\.quantized\.dynamic.*Linear, which computes another thing",
    ),
    "pruning": (
        lambda m: PRUNE(m.classifier, "weight", 0.5),
        "classifier of .* has a hook",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("change", [*EXACT, *REFUSED])
def test_changes_are_noticed(change: str) -> None:
    model = model_of()
    seen = Structure(model)
    model(torch.ones(1, 3, dtype=torch.long))
    assert seen.parameters() is seen.tensors
    (EXACT.get(change) or REFUSED[change][0])(model)
    found = seen.parameters()
    assert found is None or len(found) < len(seen.tensors)
    assert Structure(model).parameters() is not None
    if change in EXACT:
        check(model, transformers.DistilBertForSequenceClassification)
    else:
        with pytest.raises(TypeError, match=REFUSED[change][1]):
            check(model, transformers.DistilBertForSequenceClassification)


def test_what_transformers_itself_adds_is_no_change_of_what_is_computed() -> None:
    """It notes hidden states by hooks that stay."""
    model = model_of()
    model(torch.ones(1, 3, dtype=torch.long), output_hidden_states=True, output_attentions=True)
    check(model, type(model))
    check(copy.deepcopy(model), type(model))


def test_parameters_are_those_of_now() -> None:
    model = model_of()
    seen = Structure(model)
    assert seen.names == [name for name, _ in model.named_parameters()]
    model.classifier.bias = nn.Parameter(torch.ones(2))
    now = seen.parameters()
    assert now is not None
    found = dict(zip(seen.names, now, strict=True))
    assert all(found[name] is parameter for name, parameter in model.named_parameters())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_tensors_are_as_in_a_file(dtype: str) -> None:
    module = torch.nn.Linear(3, 2).to(getattr(torch, dtype))
    stored = ModuleFile(module).tensors()
    assert list(stored) == ["weight", "bias"]
    weight = stored["weight"]
    assert (weight.dtype, weight.shape) == (dtype, (2, 3))
    assert weight.load().dtype == np.float32
    assert np.array_equal(weight.load(), module.weight.detach().float().numpy())
    bits = {"bfloat16": np.uint16}.get(dtype) or np.dtype(dtype)
    assert weight.raw().dtype == bits
    assert weight.raw().tobytes() == module.weight.detach().view(torch.uint8).numpy().tobytes()
    assert not weight.raw().flags.writeable


def test_float32_is_a_view() -> None:
    module = torch.nn.Linear(3, 2)
    array = ModuleFile(module).tensors()["weight"].load()
    with torch.no_grad():
        module.weight[1, 2] = 7
    assert array[1, 2] == 7
    ModuleFile(module).release()
