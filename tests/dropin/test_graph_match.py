"""Which encoders and heads are found in a captured graph, and that near misses are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional

from distilrt.dropin.graph_match import FoundEncoder, FoundHead, encoders, head_behind
from distilrt.model.architecture import expected_shapes
from distilrt.model.config import DistilBertConfig

Change = Callable[..., Any]


def found_in(program: Callable[..., Any], *inputs: Any, dynamic: bool | None = None) -> list[FoundEncoder]:
    """The encoders in the one graph that a program is captured as."""
    torch._dynamo.reset()
    graphs = []

    def keep(module: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(list(encoders(module.graph)))
        return module.forward

    with torch.no_grad():
        torch.compile(program, backend=keep, fullgraph=True, dynamic=dynamic)(*inputs)
    (found,) = graphs
    return found


def model_of(config: DistilBertConfig, attention: str = "sdpa") -> Any:
    settings = transformers.DistilBertConfig(**{**config.to_dict(), "attn_implementation": attention})
    return getattr(transformers, "DistilBertModel")(settings).eval()  # noqa: B009 (untyped)


@pytest.mark.parametrize("dynamic", [False, True])
def test_shape_and_weights(dynamic: bool, tiny: Callable[..., DistilBertConfig]) -> None:
    config = tiny(activation="relu")
    model = model_of(config)
    (encoder,) = found_in(model, torch.ones(2, 5).long(), torch.ones(2, 5), dynamic=dynamic)
    names = ("vocab_size", "max_position_embeddings", "n_layers", "n_heads", "dim", "hidden_dim", "activation")
    assert all(getattr(encoder.config, name) == getattr(config, name) for name in names)
    assert set(encoder.weights) == set(expected_shapes(config, "DistilBertModel"))
    for name, node in encoder.weights.items():
        last = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
        assert last.lower() in str(node.target).lower(), name
    assert "inputs_embeds" not in encoder.inputs
    assert "attention_mask" in encoder.inputs
    assert len(encoder.states) == config.n_layers + 1


def test_without_mask_and_with_embeddings(tiny: Callable[..., DistilBertConfig]) -> None:
    model = model_of(tiny())
    (encoder,) = found_in(lambda embeds: model(inputs_embeds=embeds)[0], torch.randn(2, 5, 48))
    assert "attention_mask" not in encoder.inputs
    assert "input_ids" not in encoder.inputs
    assert "inputs_embeds" in encoder.inputs


def layer(x: torch.Tensor, w: list[torch.Tensor], mask: Any = None, **changes: Any) -> torch.Tensor:
    """One DistilBERT layer of width 32 with 2 heads; `changes` replaces parts of it."""
    split: Any = [functional.linear(x, w[i], w[6]).view(*x.shape[:2], 2, 16).transpose(1, 2) for i in range(3)]
    if changes.get("swap"):
        split[0], split[1] = split[1], split[0].flip(3)
    attended = functional.scaled_dot_product_attention(
        split[0], split[1], split[2], attn_mask=mask, **changes.get("attention", {})
    )
    context = attended.transpose(1, 2).reshape(x.shape)
    if changes.get("mixed_heads"):
        context = attended.reshape(x.shape)
    norm = changes.get("norm", (w[6], w[7], 1e-12))
    x = functional.layer_norm(functional.linear(context, w[3], w[6]) + x, (32,), *norm)
    inner = changes.get("activation", functional.gelu)(functional.linear(x, w[4], w[6]))
    residual = inner if changes.get("residual") else x
    return functional.layer_norm(functional.linear(inner, w[5], w[7]) + residual, (32,), w[6], w[7], 1e-12)


def embedded(ids: torch.Tensor, w: list[torch.Tensor], **options: Any) -> torch.Tensor:
    words = functional.embedding(ids, w[0], **options)
    places = functional.embedding(torch.arange(ids.shape[1])[None], w[1])
    return functional.layer_norm(words + places, (32,), w[6], w[7], 1e-12)


def tensors() -> list[torch.Tensor]:
    """Parameters, which torch gives no symbols for sizes."""
    shapes = [(32, 32)] * 6 + [(32,)] * 2
    return [torch.nn.Parameter(torch.randn(shape), requires_grad=False) for shape in shapes]


IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 1),
        ({"activation": lambda x: functional.gelu(x, approximate="tanh")}, 1),
        ({"attention": {"scale": 0.25}}, 1),
        ({"activation": torch.sigmoid}, 0),
        ({"activation": lambda x: functional.gelu(x) * 1.0001}, 0),
        ({"activation": lambda x: functional.dropout(functional.gelu(x), 0.1, True)}, 0),
        ({"activation": lambda x: functional.dropout(functional.gelu(x), 0.1, False)}, 1),
        ({"attention": {"scale": 0.3}}, 0),
        ({"attention": {"is_causal": True}}, 0),
        ({"attention": {"dropout_p": 0.1}}, 0),
        ({"swap": True}, 0),
        ({"mixed_heads": True}, 0),
        ({"residual": True}, 0),
        ({"norm": (None, None, 1e-12)}, 0),
    ],
)
def test_near_misses(changes: dict[str, Any], count: int) -> None:
    assert len(found_in(lambda ids, *w: layer(embedded(ids, w), w, **changes), IDS, *tensors())) == count  # type: ignore[arg-type]


def test_other_embeddings() -> None:
    def scaled(ids: torch.Tensor, *w: torch.Tensor) -> torch.Tensor:
        return layer(embedded(ids, w) * 1.5, w)  # type: ignore[arg-type]

    def renormalised(ids: torch.Tensor, *w: torch.Tensor) -> torch.Tensor:
        return layer(embedded(ids, w, max_norm=1.0), w)  # type: ignore[arg-type]

    assert not found_in(scaled, IDS, *tensors())
    assert not found_in(renormalised, IDS, *tensors())


@pytest.mark.parametrize("causal", [False, True])
def test_the_mask_belongs_to_it(causal: bool) -> None:
    def program(ids: torch.Tensor, given: torch.Tensor, *w: torch.Tensor) -> torch.Tensor:
        mask = given[:, None, None, :].bool()
        return layer(embedded(ids, w), w, mask & torch.ones(4, 4, dtype=torch.bool).tril() if causal else mask)  # type: ignore[arg-type]

    assert len(found_in(program, IDS, torch.ones(2, 4), *tensors())) == (not causal)


WIDTH = 48


def head_in(program: Callable[..., Any]) -> FoundHead | None:
    """The head of the one encoder in the one graph that a program is captured as."""
    torch._dynamo.reset()
    heads = []

    def keep(module: torch.fx.GraphModule, _: Any) -> Any:
        (encoder,) = encoders(module.graph)
        heads.append(head_behind(encoder))
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
