"""Lists and NumPy in, NumPy out; torch in, torch out; and nobody who has no torch gets it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import torch

from distilrt.model import models
from tests.model.model_calls import (
    as_torch,
    each_architecture,
    inputs_of,
    ours_of,
)


@each_architecture
def test_torch_in_torch_out(architecture: str, tiny: Any, backend: str) -> None:
    config = tiny()
    model = ours_of(architecture, config, backend=backend)
    inputs = inputs_of(architecture, config, "left")
    labels = {"labels": np.array([0, 1])} if architecture == "DistilBertForMultipleChoice" else {}
    wanted = model(**inputs, **labels, output_hidden_states=True, output_attentions=True)
    found = model(**as_torch(inputs | labels), output_hidden_states=True, output_attentions=True)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        pairs = zip(found[name], value, strict=True) if isinstance(value, tuple) else [(found[name], value)]
        for mine, array in pairs:
            assert isinstance(mine, torch.Tensor)
            assert mine.dtype is torch.float32
            assert isinstance(array, np.ndarray | np.float32)
            assert np.array_equal(mine.numpy(), array)
    listed = model(**{name: value.tolist() for name, value in inputs.items()})
    assert isinstance(listed[0], np.ndarray)
    assert np.array_equal(listed[0], model(**inputs)[0])
    mixed = model(torch.from_numpy(inputs["input_ids"]), inputs["attention_mask"])
    assert isinstance(mixed[0], torch.Tensor)


def test_torch_inputs_embeds_of_every_float_dtype(tiny: Any, backend: str) -> None:
    model: Any = models.DistilBertModel(tiny(), backend=backend)
    embeds = torch.randn(2, 5, 48, dtype=torch.bfloat16)
    expected = model(inputs_embeds=embeds.float())
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        found = model(inputs_embeds=embeds.to(dtype).requires_grad_())
        assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
        assert not found.last_hidden_state.requires_grad


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = """
import sys
import numpy as np
from distilrt import DistilBertConfig, DistilBertForSequenceClassification
config = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=40, vocab_size=10)
out = DistilBertForSequenceClassification(config, backend="reference")([[1, 2]], labels=[1], output_attentions=True)
assert out.logits.shape == (1, 2)
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@each_architecture
def test_inputs_stay_as_they_were(architecture: str, tiny: Any, backend: str) -> None:
    model = ours_of(architecture, tiny(), backend=backend)
    inputs = inputs_of(architecture, model.config, "left")
    expected = model(**inputs)[0]
    strided = {name: np.repeat(value, 2, axis=-1)[..., ::2] for name, value in inputs.items()}
    narrow = {name: value.astype(np.int32) for name, value in inputs.items()}
    for given in (inputs, strided, narrow):
        before = {name: value.copy() for name, value in given.items()}
        for value in given.values():
            value.flags.writeable = False
        out = model(**given)[0]
        assert np.array_equal(out, expected)
        assert out.flags.writeable
        assert all(np.array_equal(value, before[name]) for name, value in given.items())
