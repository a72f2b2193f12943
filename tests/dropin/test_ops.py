"""The torch operator: its fake describes what it computes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch

from distilrt.dropin import ops
from distilrt.dropin.output_fields import flat, nested, output_shapes
from distilrt.model import models
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS


class Engine:
    """What a number stands for, around a model."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def compute(self, tensors: dict[str, torch.Tensor], outputs: list[str]) -> list[torch.Tensor]:
        states = "hidden_states.0" in outputs
        return flat(self.model(**tensors, output_hidden_states=states, output_attentions=states))


def inputs_of(name: str, config: DistilBertConfig, labels: bool) -> dict[str, torch.Tensor]:
    shape = (2, 3, 6) if name.endswith("Choice") else (3, 6)
    inputs = {"input_ids": torch.randint(0, config.vocab_size, shape), "attention_mask": torch.ones(shape).long()}
    inputs["attention_mask"][..., 0, 4:] = 0
    if not labels or not HEADS[name].labels:
        return inputs
    if name.endswith("Answering"):
        return inputs | {"start_positions": torch.tensor([0, 1, 2]), "end_positions": torch.tensor([0, 1, 3])}
    classes = torch.randint(0, 2, shape[:1] if name[-4:] in ("tion", "oice") and "Token" not in name else shape)
    return inputs | {"labels": classes * inputs["attention_mask"] - 100 * (1 - inputs["attention_mask"])
                     if classes.ndim == 2 else classes}  # fmt: skip


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_computes_what_the_engine_does(name: str, labels: bool, tiny: Callable[..., DistilBertConfig]) -> None:
    config = tiny(num_labels=2)
    engine = Engine(getattr(models, name)(config))
    number = ops.register(engine)
    inputs = inputs_of(name, config, labels)
    for states in (False, True):
        outputs = output_shapes(name, config, inputs, states, states)
        operands = ops.operands(number, inputs, outputs)
        found = nested(outputs, torch.ops.distilrt.compute(*operands))
        expected = engine.model(**inputs, output_hidden_states=states, output_attentions=states)
        assert list(found) == list(expected)
        for ours, theirs in zip(flat(found), flat(expected), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        tests = "test_schema", "test_faketensor", "test_aot_dispatch_dynamic"
        torch.library.opcheck(torch.ops.distilrt.compute, operands, test_utils=tests[: 2 if labels else 3])


def test_a_model_that_is_gone() -> None:
    operands = ops.operands(ops.register(Engine(None)), {"input_ids": torch.ones(1, 2)}, {})
    gc.collect()
    with pytest.raises(RuntimeError, match="the model of this compiled program is gone; compile the program again"):
        torch.ops.distilrt.compute(*operands)
