"""Writes to tensors are noticed however they were made: those that torch counts, and those that it does not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from distilrt import _C
from distilrt.dropin import watch as watch_module
from distilrt.dropin.watch import Watch


def linear(inputs: int, outputs: int, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return torch.nn.Linear(inputs, outputs, dtype=dtype)


def watch_of(module: Any) -> tuple[Watch, list[Any]]:
    named = dict(module.named_parameters())
    return Watch(list(named.values()), list(named)), list(named.values())


def step(module: Any, kind: str, **options: Any) -> None:
    optimizer = getattr(torch.optim, kind)(module.parameters(), lr=0.1, **options)
    module(torch.ones(2, module.in_features)).sum().backward()
    optimizer.step()


CHANGES: dict[str, Callable[[Any], object]] = {
    "in place": lambda m: m.bias.detach().mul_(2),
    "optimizer": lambda m: step(m, "AdamW"),
    "foreach": lambda m: step(m, "SGD", foreach=True),
    "fused AdamW": lambda m: step(m, "AdamW", fused=True),
    "fused SGD": lambda m: step(m, "SGD", fused=True),
    "compiled": lambda m: torch.compile(lambda: step(m, "AdamW"), backend="aot_eager")(),
    "data": lambda m: m.bias.data.add_(1),
    "data replaced": lambda m: setattr(m.weight, "data", m.weight.data.clone()),
    "data transposed": lambda m: setattr(m.weight, "data", m.weight.data.t()),
    "data cut": lambda m: setattr(m.weight, "data", m.weight.data[:10]),
    "numpy": lambda m: np.negative(m.weight.detach().numpy(), out=m.weight.detach().numpy()),
    "cast": lambda m: m.double(),
    "another device": lambda m: m.to("meta"),
    "storage": lambda m: m.weight.untyped_storage().resize_(0),
}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    "change", [pytest.param(name, marks=[pytest.mark.whole] if name == "compiled" else []) for name in CHANGES]
)
def test_changes_are_noticed_at_once(change: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distilrt.dropin.watch._NATIVE", native and watch_module._NATIVE)
    module = linear(300, 20)
    watch, parameters = watch_of(module)
    other = linear(300, 20)
    step(other, "AdamW", fused=True)
    assert not watch.changed(parameters)
    CHANGES[change](module)
    parameters = list(module.parameters())
    assert watch.changed(parameters)
    assert watch.changed(parameters)


def test_a_fused_step_that_changes_no_sampled_number() -> None:
    module = linear(300, 20)
    watch, parameters = watch_of(module)
    module.weight.grad = torch.zeros_like(module.weight)
    module.weight.grad[3, 5] = 1
    torch.optim.SGD(module.parameters(), lr=0.1, fused=True).step()
    assert watch.changed(parameters)


def test_steps_on_other_kinds_of_parameters_do_no_harm() -> None:
    """The report of a step runs in everybody's training."""
    watch, parameters = watch_of(linear(3, 2))
    sparse = torch.eye(2).to_sparse().requires_grad_()
    torch.optim.SGD([sparse, torch.nn.Parameter(torch.ones(2, device="meta"))]).step()
    assert not watch.changed(parameters)


def test_other_tensors_in_their_place() -> None:
    module = linear(300, 20)
    watch, (weight, bias) = watch_of(module)
    assert not watch.changed([weight, bias])
    assert watch.changed([torch.nn.Parameter(weight.detach().clone()), bias])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("place", [(0, 9), (7, 150), (500, 290), (299, 0)])
def test_one_number_is_noticed_in_time(place: tuple[int, int], dtype: torch.dtype) -> None:
    """Which no look may see by its sample, but all of them together do, and say that answers may have been old."""
    module = linear(300, 501, dtype=dtype)
    watch, parameters = watch_of(module)
    module.weight.data[place] += 1
    watch.computed(1.0)
    with pytest.warns(RuntimeWarning, match=r"^weight was written to in a way that torch does not count"):
        assert watch.changed(parameters)
    assert watch.changed(parameters)


def test_rows_that_change_places() -> None:
    module = linear(768, 768)
    watch, parameters = watch_of(module)
    module.weight.data[[3, 9]] = module.weight.data[[9, 3]]
    watch.computed(1.0)
    with pytest.warns(RuntimeWarning, match="weight was written to"):
        assert watch.changed(parameters)


def test_looking_takes_a_hundredth_of_the_time() -> None:
    watch, parameters = watch_of(linear(1000, 1000))
    parameters[0].data[500, 500] += 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not any(watch.changed(parameters) for _ in range(50))


@pytest.mark.parametrize("view", [lambda t: t.T, lambda t: t[:, ::3], lambda t: t[1:, 1:]])
def test_tensors_that_are_not_contiguous(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    base = torch.randn(40, 30)
    tensor = view(base)
    watch = Watch([tensor], ["w"])
    assert not watch.changed([tensor])
    tensor.data.mul_(2)
    assert watch.changed([tensor])


def test_tensors_of_inference_mode_and_none() -> None:
    with torch.inference_mode():
        module = linear(3, 2)
    watch, parameters = watch_of(module)
    assert not watch.changed(parameters)
    with torch.inference_mode():
        module.weight.mul_(2)
    assert watch.changed(parameters)
    assert not Watch([], []).changed([])


@pytest.mark.skipif(not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="torch < 2.10")
def test_natively_only_of_tensors_and_dicts() -> None:
    things: Any
    tables: Any
    for things in ((1,), ({},), (torch.ones(1), "a")):
        with pytest.raises(TypeError, match="tensors must be of this kind"):
            _C.tensor_states(things, torch.Tensor)
    with pytest.raises(AttributeError):
        _C.tensor_states((), int)
    for tables in ((1,), ([],)):
        with pytest.raises(TypeError, match="tables must be dicts"):
            _C.table_states(tables, ())
        with pytest.raises(TypeError, match="tables must be dicts"):
            _C.table_states((), tables)
