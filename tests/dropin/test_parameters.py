"""A live module's parameters as a file of tensors, and the count of their changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distilrt.dropin.parameters import ModuleFile, change_counter


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_tensors_are_as_in_a_file(dtype: str) -> None:
    module = torch.nn.Linear(3, 2).to(getattr(torch, dtype))
    stored = ModuleFile(module).stored()
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
    array = ModuleFile(module).stored()["weight"].load()
    with torch.no_grad():
        module.weight[1, 2] = 7
    assert array[1, 2] == 7
    ModuleFile(module).release()


def test_changes_are_counted() -> None:
    module: Any = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    counter = change_counter(module)
    seen = {counter()}
    assert counter() in seen
    with torch.no_grad():
        module[1].bias.zero_()
    assert counter() not in seen
    seen.add(counter())
    module.double()
    assert counter() not in seen


def test_modules_made_in_inference_mode_have_no_count() -> None:
    with torch.inference_mode():
        module = torch.nn.Linear(3, 2)
    counter = change_counter(module)
    assert counter() == counter()
