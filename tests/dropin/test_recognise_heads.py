"""Which heads are found behind an encoder in a captured graph, and that near misses are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from distilrt.dropin.recognise import encoders
from distilrt.dropin.recognise_heads import FoundHead, head_of
from distilrt.model.config import DistilBertConfig
from tests.dropin.test_recognise import model_of

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
WIDTH = 48


def head_in(program: Callable[..., Any]) -> FoundHead | None:
    """The head of the one encoder in the one graph that a program is captured as."""
    torch._dynamo.reset()
    heads = []

    def keep(module: torch.fx.GraphModule, _: Any) -> Any:
        (encoder,) = encoders(module.graph)
        heads.append(head_of(encoder))
        return module.forward

    with torch.no_grad():
        torch.compile(program, backend=keep, fullgraph=True)(IDS)
    (head,) = heads
    return head


@pytest.fixture
def encoder(tiny: Callable[..., DistilBertConfig]) -> Any:
    return model_of(tiny())


def test_what_programs_do_with_all_positions(encoder: Any) -> None:
    inner, outer, norm = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 7), nn.LayerNorm(WIDTH, eps=1e-12)
    for program, kind in (
        (lambda x: outer(x), "TokenClassification"),
        (lambda x: outer(functional.dropout(x, 0.1, False)) * 2, "TokenClassification"),
        (lambda x: outer(functional.dropout(x, 0.1, True)), None),
        (lambda x: outer(x * 2), None),
        (lambda x: outer(x) + x.mean(), None),
        (lambda x: functional.linear(x, outer.weight), None),
        (lambda x: outer(x[:, 1:]), None),
        (lambda x: outer(norm(functional.gelu(inner(x)))), "MaskedLM"),
        (lambda x: outer(norm(functional.relu(inner(x)))).argmax(-1), "MaskedLM"),
        (lambda x: outer(norm(torch.tanh(inner(x)))), "TokenClassification"),
        (lambda x: outer(functional.layer_norm(functional.gelu(inner(x)), (WIDTH,), norm.weight, norm.bias)),
         "TokenClassification"),
    ):  # fmt: skip
        head = head_in(lambda ids, program=program: program(encoder(ids).last_hidden_state))
        assert (head and head.head.architecture) == (kind and f"DistilBertFor{kind}")
        if head:
            assert set(head.weights) == set(head.head.tensors)
            assert head.width == head.scores.meta["example_value"].shape[-1]


def test_what_programs_do_with_the_first_position(encoder: Any) -> None:
    inner, outer, wide = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 64)
    behind = nn.Linear(64, 3)
    for program, kind in (
        (lambda x: outer(functional.relu(inner(x[:, 0]))), "SequenceClassification"),
        (lambda x: outer(functional.dropout(torch.relu(inner(x[:, 0, :])), 0.1, False)).view(1, 6),
         "SequenceClassification"),
        (lambda x: outer(torch.tanh(inner(x[:, 0]))), None),
        (lambda x: outer(functional.gelu(inner(x[:, 0]))), None),
        (lambda x: outer(functional.relu(inner(x[:, 1]))), None),
        (lambda x: outer(x[:, 0]), None),
        (lambda x: behind(functional.relu(wide(x[:, 0]))), None),
        (lambda x: outer(functional.relu(inner(x[:, 0]))) + inner(x[:, 0]).sum(), None),
    ):  # fmt: skip
        head = head_in(lambda ids, program=program: program(encoder(ids).last_hidden_state))
        assert (head and head.head.architecture) == (kind and f"DistilBertFor{kind}")


def test_states_of_lower_layers_keep_it_with_the_rest(encoder: Any) -> None:
    outer = nn.Linear(WIDTH, 7)
    encoder(IDS, output_hidden_states=True)  # transformers installs hooks under a lock, which can't be captured

    def program(ids: torch.Tensor) -> Any:
        output = encoder(ids, output_hidden_states=True)
        return outer(output.last_hidden_state), output.hidden_states[0]

    assert head_in(program) is None
    assert head_in(lambda ids: outer(encoder(ids, output_hidden_states=True).hidden_states[1])) is None
