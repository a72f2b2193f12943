"""The torch operators: their fakes describe what they compute, and accelerated models compile without a graph break."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import distilrt
from distilrt.dropin import ops
from distilrt.model import models
from distilrt.model.config import DistilBertConfig

HEADS = ["DistilBertModel", *(f"DistilBertFor{task}" for task in (
    "MaskedLM", "SequenceClassification", "QuestionAnswering", "TokenClassification", "MultipleChoice"))]  # fmt: skip


class Owner:
    """What a number stands for: something that has an engine."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine


def inputs_of(name: str, config: DistilBertConfig, labels: bool) -> dict[str, torch.Tensor]:
    shape = (2, 3, 6) if name.endswith("Choice") else (3, 6)
    inputs = {"input_ids": torch.randint(0, config.vocab_size, shape), "attention_mask": torch.ones(shape).long()}
    inputs["attention_mask"][..., 0, 4:] = 0
    if not labels or name == HEADS[0]:
        return inputs
    if name.endswith("Answering"):
        return inputs | {"start_positions": torch.tensor([0, 1, 2]), "end_positions": torch.tensor([0, 1, 3])}
    classes = torch.randint(0, 2, shape[:1] if name[-4:] in ("tion", "oice") and "Token" not in name else shape)
    return inputs | {"labels": classes * inputs["attention_mask"] - 100 * (1 - inputs["attention_mask"])
                     if classes.ndim == 2 else classes}  # fmt: skip


def leaves(fields: dict[str, Any]) -> list[torch.Tensor]:
    return [part for value in fields.values() for part in (value if isinstance(value, tuple) else (value,))]


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_forward_is_the_engines(name: str, labels: bool, tiny: Callable[..., DistilBertConfig]) -> None:
    config = tiny(num_labels=2)
    owner = Owner(getattr(models, name)(config))
    number = ops.register(owner)
    inputs = inputs_of(name, config, labels)
    for states in (False, True):
        found = ops.forward(number, config, name, inputs, states, states)
        expected = owner.engine.forward(**inputs, output_hidden_states=states, output_attentions=states)
        assert list(found) == list(expected)
        for ours, theirs in zip(leaves(found), leaves(expected), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        sizes = [getattr(config, size) for size in ops._SIZES]
        arguments = (number, name, ",".join(inputs), list(inputs.values()), sizes, states, states)
        torch.library.opcheck(torch.ops.distilrt.forward, arguments, test_utils=("test_schema", "test_faketensor"))


def test_encode_is_described_by_its_fake() -> None:
    def encoder(
        ids: Any, embeds: Any, positions: torch.Tensor, mask: Any, all_layers: bool, first_only: bool
    ) -> torch.Tensor:
        shape = (3, 16) if first_only else (3, 6, 16)
        return torch.zeros((4, *shape) if all_layers else shape)

    number = ops.register(encoder)
    ids, embeds = torch.zeros(3, 6, dtype=torch.long), torch.zeros(3, 6, 16)
    for given in ((ids, None), (None, embeds)):
        for num_states, first_only in ((0, False), (4, False), (0, True)):
            arguments = (number, *given, ids[:1], None, 16, num_states, first_only)
            tests = "test_schema", "test_faketensor", "test_aot_dispatch_dynamic"
            torch.library.opcheck(torch.ops.distilrt.encode, arguments, test_utils=tests)


def test_a_model_that_is_gone() -> None:
    owner = Owner(None)
    number = ops.register(owner)
    assert ops.found(number) is owner
    del owner
    gc.collect()
    with pytest.raises(RuntimeError, match="the model of this compiled program is gone; compile the program again"):
        ops.found(number)


@pytest.mark.parametrize("name", HEADS)
def test_accelerated_models_compile_whole(
    name: str, reference_model: Callable[..., tuple[Any, Any]], tiny: Callable[..., DistilBertConfig]
) -> None:
    torch._dynamo.reset()
    config = tiny(num_labels=2)
    model = distilrt.accelerate(reference_model(config, name)[0])

    def program(**inputs: torch.Tensor) -> Any:
        output = model(**inputs, output_hidden_states=True)
        return output, output[0].mean() + output.hidden_states[1].sum()

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        for _ in range(2):
            inputs = inputs_of(name, config, labels=False)
            (found, total), (expected, expected_total) = compiled(**inputs), program(**inputs)
            assert type(found) is type(expected)
            for ours, theirs in zip(leaves(dict(found)), leaves(dict(expected)), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
            np.testing.assert_allclose(total, expected_total, rtol=1e-4, atol=1e-3)
