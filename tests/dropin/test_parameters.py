"""A live module's parameters as a file of tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distilrt.dropin.parameters import ModuleFile


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
    for array in (weight.raw(), weight.load()):
        assert not array.flags.writeable


def test_float32_is_a_view() -> None:
    module = torch.nn.Linear(3, 2)
    array = ModuleFile(module).tensors()["weight"].load()
    with torch.no_grad():
        module.weight[1, 2] = 7
    assert array[1, 2] == 7
    ModuleFile(module).release()
