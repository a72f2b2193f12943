"""`torch.compile(backend="distilrt")`: whatever is compiled gives what it gives uncompiled, everywhere.

Inductor takes seconds for a graph. Where the question is what it is given, the graph runs as it is instead; a few tests
go through inductor.
"""

from __future__ import annotations

import importlib.metadata
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from distilrt.dropin import compile as backend
from distilrt.dropin import ops
from distilrt.model.config import DistilBertConfig

HEADS = ["DistilBertModel", *(f"DistilBertFor{task}" for task in (
    "MaskedLM", "SequenceClassification", "QuestionAnswering", "TokenClassification", "MultipleChoice"))]  # fmt: skip
TOLERANCE = 1e-5  # of the largest number, as everywhere for float32

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])

Maker = Callable[..., tuple[Any, Any]]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The encoders handed to the engine; the graphs run as they are, without inductor."""
    handed: list[Any] = []

    def noting(encoder: Any, register: Callable[[Any], int] = ops.register) -> int:
        handed.append(encoder)
        return register(encoder)

    monkeypatch.setattr(ops, "register", noting)
    monkeypatch.setattr(torch._inductor, "compile", lambda module, inputs, options: module.forward)
    return handed


def batch(config: DistilBertConfig, shape: tuple[int, ...] = (3, 7), mask: bool = True) -> dict[str, torch.Tensor]:
    """Random inputs; some rows begin with masked positions, none is masked altogether."""
    random = np.random.default_rng()
    inputs = {"input_ids": torch.from_numpy(random.integers(0, config.vocab_size, shape))}
    if mask:
        ones = random.random(shape) < 0.6
        ones[..., random.integers(shape[-1])] = True
        inputs["attention_mask"] = torch.from_numpy(ones.astype(np.int64))
    return inputs


def assert_near(found: Any, expected: Any) -> None:
    """Compare two outputs of any structure."""
    found, expected = (torch.utils._pytree.tree_leaves(_plain(value)) for value in (found, expected))
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).abs().max() <= TOLERANCE * max(theirs.abs().max(), 1e-3)


def _plain(value: Any) -> Any:
    return tuple(_plain(item) for item in value.to_tuple()) if hasattr(value, "to_tuple") else value


def untyped(name: str, *arguments: Any, **options: Any) -> Any:
    """A thing of transformers, whose own types forbid what its documentation does."""
    return getattr(transformers, name)(*arguments, **options)


def compiled(program: Any, **options: Any) -> Any:
    return torch.compile(program, backend="distilrt", **options)


def model_of(
    reference_model: Maker, tiny: Callable[..., DistilBertConfig], name: str = HEADS[0], **changes: Any
) -> tuple[Any, DistilBertConfig]:
    """transformers' model with random weights, and its config."""
    attention = changes.pop("attention", "sdpa")
    config = tiny(num_labels=2, **changes)
    return reference_model(config, name, attention=attention)[0], config


def test_torch_finds_it() -> None:
    (entry,) = importlib.metadata.entry_points(group="torch_dynamo_backends", name="distilrt")
    assert entry.load() is backend.compile_graph
    assert "distilrt" in torch.compiler.list_backends()


@pytest.mark.parametrize(
    ("name", "dynamic"),
    [
        *((name, None) for name in HEADS),
        *(pytest.param(name, True, marks=pytest.mark.whole) for name in (HEADS[0], HEADS[2], HEADS[5])),
    ],
)
def test_every_head(
    name: str, dynamic: bool | None, encoders: list[Any], reference_model: Maker, tiny: Callable[..., DistilBertConfig]
) -> None:
    model, config = model_of(reference_model, tiny, name)
    program = compiled(model, dynamic=dynamic)
    with torch.inference_mode():
        for shape in ((3, 7), (2, 9)):
            given = (2, *shape) if name.endswith("Choice") else shape
            for mask in (True, False):
                inputs = batch(config, given, mask)
                graphs = len(encoders)
                assert_near(program(**inputs), model(**inputs))
                assert len(encoders) <= graphs + 1
    assert encoders
    # Of heads with the same layers the first is found.
    first = {
        "DistilBertForMultipleChoice": "DistilBertForSequenceClassification",
        "DistilBertForTokenClassification": "DistilBertForQuestionAnswering",
    }
    assert {encoder._head.architecture for encoder in encoders} == {first.get(name, name)}


def test_a_head_of_ones_own_and_of_a_bert(encoders: list[Any], reference_model: Maker, tiny: Any) -> None:
    """Where it computes what one of DistilBERT's does, at masked positions too, and is packed anew when it changes."""
    encoder, config = model_of(reference_model, tiny)
    layer = nn.Linear(48, 7)
    inputs = batch(config)

    def program(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return layer(encoder(input_ids, attention_mask)[0]).softmax(-1)

    run = compiled(program)
    with torch.no_grad():
        assert_near(run(**inputs), program(**inputs))
        assert encoders[0]._head.layers
        layer.weight.mul_(3)
        assert_near(run(**inputs), program(**inputs))
        inputs["attention_mask"][1] = 0
        assert_near(torch.nan_to_num(run(**inputs)), torch.nan_to_num(program(**inputs)))
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 64, "max_position_embeddings": 20}  # fmt: skip
    bert = untyped("BertForMaskedLM", untyped("BertConfig", **sizes)).eval()
    with torch.no_grad():
        assert_near(compiled(bert)(IDS), bert(IDS))
    assert [encoder._head.architecture for encoder in encoders] == [
        "DistilBertForTokenClassification",
        "DistilBertForMaskedLM",
    ]


@pytest.mark.parametrize("flags", [{"output_hidden_states": True}, {"return_dict": False}])
def test_hidden_states_and_tuples(
    flags: dict[str, bool], encoders: list[Any], reference_model: Maker, tiny: Callable[..., DistilBertConfig]
) -> None:
    model, config = model_of(reference_model, tiny, HEADS[2])
    inputs = batch(config)
    with torch.no_grad():
        found, expected = compiled(model)(**inputs, **flags), model(**inputs, **flags)
    assert type(found) is type(expected)
    assert_near(found, expected)
    assert len(encoders) == 1


def test_loss_embeddings_and_positions(
    encoders: list[Any], reference_model: Maker, tiny: Callable[..., DistilBertConfig]
) -> None:
    model, config = model_of(reference_model, tiny, HEADS[2])
    inputs = batch(config)
    program = compiled(model)
    with torch.no_grad():
        labelled = inputs | {"labels": torch.tensor([0, 1, 1])}
        assert_near(program(**labelled), model(**labelled))
        embedded = {"inputs_embeds": torch.randn(3, 7, 48), "attention_mask": inputs["attention_mask"]}
        assert_near(program(**embedded), model(**embedded))
        placed = inputs | {"position_ids": torch.randint(0, 80, (3, 7))}
        assert_near(program(**placed), model(**placed))
    assert len(encoders) == 3


class Pooling(nn.Module):
    """A larger program: a mask made of the ids, two encoders, pooling over all positions, and a layer of its own."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.layer = first, second, nn.Linear(48, 5)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        mask = input_ids.ne(0)
        a = self.first(input_ids, attention_mask=mask).last_hidden_state.mean(1)
        b = self.second(input_ids.flip(1)).last_hidden_state[:, 0]
        return self.layer(torch.tanh(a) + b)  # type: ignore[no-any-return]


def test_part_of_a_larger_program(
    encoders: list[Any], reference_model: Maker, tiny: Callable[..., DistilBertConfig]
) -> None:
    first, _ = model_of(reference_model, tiny)
    second, _ = model_of(reference_model, tiny, n_layers=1, activation="relu")
    program = Pooling(first, second)
    inputs = torch.randint(0, 3, (4, 6))
    inputs[:, 2] = 1
    with torch.no_grad():
        assert_near(compiled(program, fullgraph=True)(inputs), program(inputs))
    assert len(encoders) == 2


def test_a_bert_is_the_same_encoder(encoders: list[Any]) -> None:
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 64, "max_position_embeddings": 20}  # fmt: skip
    model = untyped("BertModel", untyped("BertConfig", **sizes)).eval()
    inputs = {"input_ids": torch.randint(0, 50, (2, 6)), "token_type_ids": torch.randint(0, 2, (2, 6))}
    with torch.no_grad():
        assert_near(compiled(model)(**inputs), model(**inputs))
    assert len(encoders) == 1


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "gelu_pytorch_tanh"])
def test_activations(
    activation: str, encoders: list[Any], reference_model: Maker, tiny: Callable[..., DistilBertConfig]
) -> None:
    model, config = model_of(reference_model, tiny, activation=activation)
    inputs = batch(config)
    with torch.no_grad():
        assert_near(compiled(model)(**inputs), model(**inputs))
    assert len(encoders) == 1


def _adapter(model: Any) -> None:
    model.transformer.layer[0].ffn = nn.Sequential(model.transformer.layer[0].ffn, nn.Linear(48, 48))


def _hook(model: Any) -> None:
    model.transformer.layer[1].register_forward_hook(lambda module, inputs, output: output.clamp(-100, 100))


def _scaling(model: Any) -> None:
    model.transformer.layer[0].attention.scaling = 0.3


def _eps(model: Any) -> None:
    model.transformer.layer[1].sa_layer_norm.eps = 1e-5


def _untouched(model: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "config", "handed"),
    [
        (_adapter, {}, 0),
        (_hook, {}, 1),  # behind the last layer: not part of the encoder
        (_hook, {"n_layers": 3}, 1),  # the first two layers are an encoder by themselves
        (_scaling, {}, 0),
        (_eps, {}, 1),  # the first layer alone
        (_untouched, {"attention": "eager"}, 0),
        (_untouched, {"activation": "gelu_new"}, 0),
        (_untouched, {}, 1),
    ],
)
def test_what_computes_otherwise_stays_with_inductor(
    change: Callable[[Any], None],
    config: dict[str, Any],
    handed: int,
    encoders: list[Any],
    reference_model: Maker,
    tiny: Callable[..., DistilBertConfig],
) -> None:
    model, shape = model_of(reference_model, tiny, **config)
    change(model)
    inputs = batch(shape)
    with torch.no_grad():
        assert_near(compiled(model)(**inputs), model(**inputs))
    assert len(encoders) == handed


def test_other_programs_are_untouched(encoders: list[Any]) -> None:
    graphs = []
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, activation="gelu").eval()
    config = untyped("DistilBertConfig", vocab_size=9, dim=32, n_heads=2, n_layers=1, hidden_dim=32)
    bfloat16 = untyped("DistilBertModel", config).eval().bfloat16()

    def keep(module: Any, inputs: Any) -> Any:
        rewritten, packed = backend._rewritten(module, inputs)
        graphs.append((rewritten is module, packed))
        return module.forward

    with torch.no_grad():
        torch.compile(layer, backend=keep)(torch.randn(2, 5, 32))
        program: Any = torch.compile(bfloat16, backend=keep)
        program(torch.tensor([[1, 2]]))
        torch.compile(lambda x: x.add_(1), backend=keep)(torch.ones(3))
    assert graphs == [(True, [])] * 3


def test_pairwise_and_soft_masks(
    encoders: list[Any], reference_model: Maker, tiny: Callable[..., DistilBertConfig]
) -> None:
    model, config = model_of(reference_model, tiny)
    ids = batch(config, mask=False)["input_ids"]
    pairs = torch.rand(3, 1, 7, 7) < 0.5
    pairs[..., 0] = True
    program = compiled(model)
    with torch.no_grad():
        assert_near(program(ids, pairs), model(ids, pairs))
        assert not encoders
        weights = torch.tensor([[0.0, 0.5, 2, 1, 1, 0, 1]] * 3)
        assert_near(program(ids, weights), model(ids, weights))


def test_a_row_that_is_masked_altogether_is_the_references(
    encoders: list[Any], reference_model: Maker, tiny: Callable[..., DistilBertConfig]
) -> None:
    model, config = model_of(reference_model, tiny)
    program = compiled(model)
    inputs = batch(config)
    with torch.no_grad():
        program(**inputs)
        inputs["attention_mask"][1] = 0
        found, expected = program(**inputs), model(**inputs)
    assert len(encoders) == 1
    np.testing.assert_allclose(found[0], expected[0], atol=TOLERANCE * float(expected[0].abs().nan_to_num().max()))


def test_new_parameters_are_packed_anew(
    encoders: list[Any], reference_model: Maker, tiny: Callable[..., DistilBertConfig]
) -> None:
    model, config = model_of(reference_model, tiny)
    other, _ = reference_model(config, seed=1)
    program = compiled(model)
    inputs = batch(config)
    with torch.no_grad():
        before = program(**inputs)[0]
        model.load_state_dict(other.state_dict())
        assert_near(program(**inputs), other(**inputs))
        assert (program(**inputs)[0] - before).abs().max() > 0.1
        model.transformer.layer[0].ffn.lin1 = nn.Linear(48, 80)
        assert_near(program(**inputs), model(**inputs))
        model.transformer.layer[1].ffn.lin1.bias.data = torch.randn(80)
        assert_near(program(**inputs), model(**inputs))
        backend_before = encoders[0]._backend
        program(**inputs)
        assert encoders[0]._backend is backend_before


def test_writes_that_torch_does_not_count(
    encoders: list[Any], reference_model: Maker, tiny: Callable[..., DistilBertConfig]
) -> None:
    model, config = model_of(reference_model, tiny, HEADS[2])
    program = compiled(model)
    inputs = batch(config)

    def step() -> None:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.3)
        torch.optim.AdamW(model.parameters(), lr=0.1, fused=True).step()

    changes: list[Callable[[], object]] = [
        step,
        lambda: model.classifier.weight.data.mul_(2),
        lambda: model.pre_classifier.weight.detach().numpy().round(1, out=model.pre_classifier.weight.detach().numpy()),
        lambda: model.load_state_dict(reference_model(config, HEADS[2], seed=1)[0].state_dict(), assign=True),
        lambda: setattr(model.classifier, "weight", nn.Parameter(torch.randn(2, 48))),
    ]  # fmt: skip
    with torch.no_grad():
        for change in changes:
            before = program(**inputs).logits
            change()
            assert_near(program(**inputs), model(**inputs))
            assert (program(**inputs).logits - before).abs().max() > 1e-3


def test_gradients_stay_with_inductor_and_say_so(
    encoders: list[Any], reference_model: Maker, tiny: Callable[..., DistilBertConfig]
) -> None:
    model, config = model_of(reference_model, tiny, HEADS[2])
    program = compiled(model)
    inputs = batch(config)
    with pytest.warns(UserWarning, match=r"since gradients are on; call the model under torch.inference_mode\(\)"):
        program(**inputs).logits.sum().backward()
    assert model.classifier.weight.grad is not None
    assert not encoders
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert_near(program(**inputs), model(**inputs))
    assert len(encoders) == 1
    torch._dynamo.reset()
    model.requires_grad_(False)
    assert_near(compiled(model)(**inputs), model(**inputs))
    assert len(encoders) == 2


def test_parameters_that_can_not_be_watched(encoders: list[Any], tiny: Callable[..., DistilBertConfig]) -> None:
    config = tiny()
    with torch.inference_mode():
        model = untyped("DistilBertModel", untyped("DistilBertConfig", **config.to_dict())).eval()
        inputs = batch(config)
        with pytest.warns(UserWarning, match="made under torch.inference_mode"):
            assert_near(compiled(model)(**inputs), model(**inputs))
    assert not encoders


def test_training_and_autocast_stay_with_inductor(
    encoders: list[Any], reference_model: Maker, tiny: Callable[..., DistilBertConfig]
) -> None:
    model, config = model_of(reference_model, tiny)
    inputs = batch(config)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        compiled(model)(**inputs)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled(model.train())(**inputs)
    assert not encoders


@pytest.mark.whole
def test_through_inductor(reference_model: Maker, tiny: Callable[..., DistilBertConfig]) -> None:
    """All of it once, with shapes that change, options, and a program that has no DistilBERT in it."""
    model, config = model_of(reference_model, tiny, HEADS[2])
    program = compiled(model, dynamic=True, options={"max_autotune": False})
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with torch.inference_mode():
        for shape in ((3, 7), (2, 9)):
            inputs = batch(config, shape)
            assert_near(program(**inputs), model(**inputs))
        inputs["attention_mask"][1] = 0
        found, expected = program(**inputs)[0], model(**inputs)[0]
        np.testing.assert_allclose(found, expected, atol=TOLERANCE * float(expected.abs().nan_to_num().max()))
        assert_near(compiled(plain, mode="default")(torch.ones(2, 4)), plain(torch.ones(2, 4)))


def test_it_is_quiet(
    encoders: list[Any],
    reference_model: Maker,
    tiny: Callable[..., DistilBertConfig],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, config = model_of(reference_model, tiny)
    with torch.no_grad(), caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        compiled(model)(**batch(config))
    assert not caplog.records
