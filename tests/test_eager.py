"""Models inside of programs that torch compiles: the same numbers, whatever torch does around them."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import distilrt
from distilrt.eager import eager
from distilrt.model import models
from distilrt.model.config import DistilBertConfig

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def test_signature_and_documentation_stay() -> None:
    def add(a: int, b: int = 2) -> int:
        """Add."""
        return a + b

    wrapped = eager(add)
    assert wrapped(1) == 3
    assert inspect.signature(wrapped) == inspect.signature(add)
    assert wrapped.__doc__ == "Add."


def test_nothing_beneath_is_compiled_after_a_graph_break() -> None:
    """Frames that hold no tensor torch leaves as they are, and compiles what they call."""
    torch._dynamo.reset()
    held = [torch.zeros(1)]

    def seen(tensors: list[torch.Tensor]) -> torch.Tensor:
        return tensors[0] + torch.compiler.is_compiling()

    wrapped: Callable[[], torch.Tensor] = eager(lambda: seen(held))

    def program(x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return x + wrapped()

    run: Any = torch.compile(program, backend="eager")
    assert run(torch.zeros(1)) == 0
    assert wrapped() == 0
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_model_in_a_compiled_program(backend: str, tiny: Callable[..., DistilBertConfig]) -> None:
    torch._dynamo.reset()
    model: Any = models.DistilBertModel(tiny())

    def program(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model(ids, mask).last_hidden_state.mean(1).tanh()  # type: ignore[no-any-return]

    run = torch.compile(program, backend=backend)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for rows in (2, 1):
            expected = program(IDS[:rows], mask[:rows])
            torch.testing.assert_close(run(IDS[:rows], mask[:rows]), expected)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="accelerate a transformers model"):
        torch.compile(program, backend="eager", fullgraph=True)(IDS, mask)


def test_after_an_error_in_a_compiled_model(tiny: Callable[..., DistilBertConfig]) -> None:
    """torch then gives up on the frame where it was, and compiles those that it calls."""
    torch._dynamo.reset()
    settings: Any = transformers.DistilBertConfig(**tiny().to_dict())
    model: Any = transformers.DistilBertModel(settings)
    fast = distilrt.accelerate(model.eval())
    expected = fast(IDS, return_dict=False)
    fast.compile(backend="eager")
    with pytest.raises(TypeError, match="multiple values"):
        fast(IDS, input_ids=IDS)
    torch.testing.assert_close(fast(IDS, return_dict=False), expected)


def test_nothing_is_loaded_for_it() -> None:
    code = (
        "import sys, torch, distilrt as d\n"
        "model = d.DistilBertModel(d.DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=9))\n"
        "model(torch.ones(1, 2).long())\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
