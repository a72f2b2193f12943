"""An accelerated model never answers from weights that its original has no more, however those were changed.

Every test changes the original, or what the two share, and compares with the original's own answers.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn

from distilrt import accelerate

TOLERANCE = 1e-5  # of the largest output
IDS = torch.randint(1, 90, (4, 8), generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])


def made(head: str = "SequenceClassification", seed: int = 0) -> Any:
    """A small model of transformers."""
    torch.manual_seed(seed)
    shape: Any = {"dim": 48, "n_heads": 3, "n_layers": 2, "hidden_dim": 80, "vocab_size": 90, "num_labels": 3,
                  "max_position_embeddings": 40, "initializer_range": 0.2}  # fmt: skip
    return getattr(transformers, f"DistilBertFor{head}")(transformers.DistilBertConfig(**shape)).eval()


@torch.no_grad()
def answers(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(IDS).logits
    return logits


def assert_same(fast: Any, original: Any) -> None:
    ours, theirs = answers(fast), answers(original.eval())
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


def step(model: Any, kind: str, **options: Any) -> None:
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.01, **options)
    for _ in range(2):
        optimizer.zero_grad()
        model(IDS, labels=LABELS).loss.backward()
        optimizer.step()


def layer(model: Any, number: int = 1) -> Any:
    return model.distilbert.transformer.layer[number]


def moving_average(model: Any) -> None:
    """As libraries for this do it."""
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data * 0.9 + 0.1 * torch.randn_like(parameter))


def quantize(model: Any) -> None:
    """Round weights in place, seen by torch as nothing."""
    for parameter in model.parameters():
        parameter.detach().numpy().round(1, out=parameter.detach().numpy())


def set_layers(model: Any) -> None:
    model.distilbert.transformer.layer[0] = copy.deepcopy(layer(model))


SWAP: Any = torch.utils.swap_tensors
CHANGES: dict[str, Callable[[Any], object]] = {
    "fused AdamW": lambda m: step(m, "AdamW", fused=True),
    "fused SGD": lambda m: step(m, "SGD", fused=True),
    "foreach": lambda m: step(m, "Adam", foreach=True),
    "load_state_dict": lambda m: m.load_state_dict(made(seed=1).state_dict()),
    "load_state_dict, assigned": lambda m: m.load_state_dict(made(seed=1).state_dict(), assign=True),
    "a parameter replaced": lambda m: setattr(layer(m).ffn.lin2, "weight", nn.Parameter(torch.randn(48, 80))),
    "a head's parameter replaced": lambda m: setattr(m.classifier, "bias", nn.Parameter(torch.randn(3))),
    "a module replaced": lambda m: setattr(layer(m).attention, "v_lin", nn.Linear(48, 48)),
    "a head replaced": lambda m: setattr(m, "classifier", nn.Linear(48, 3)),
    "an encoder replaced": lambda m: setattr(m, "distilbert", made(seed=1).distilbert),
    "a layer replaced": set_layers,
    "data": lambda m: layer(m).ffn.lin1.weight.data.mul_(1.5),
    "data of a bias": lambda m: m.pre_classifier.bias.data.add_(0.5),
    "data replaced": lambda m: setattr(layer(m).ffn.lin1.weight, "data", torch.randn(80, 48)),
    "data of an embedding": lambda m: m.distilbert.embeddings.word_embeddings.weight.data[IDS[0, 0]].mul_(-2),
    "moving average": moving_average,
    "NumPy": quantize,
    "swapped": lambda m: SWAP(m.classifier.weight, nn.Parameter(torch.randn(3, 48))),
    "cast there and back": lambda m: m.bfloat16().float(),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.* was written to in a way:RuntimeWarning")  # the checksums may see it first
@pytest.mark.parametrize("change", list(CHANGES))
def test_changes(change: str) -> None:
    original = made()
    fast = accelerate(original)
    before = answers(fast)
    for _ in range(2):
        CHANGES[change](original)
        assert_same(fast, original)
    assert (answers(fast) - before).abs().max() > 1e-4
    assert [id(parameter) for parameter in fast.parameters()] == [id(parameter) for parameter in original.parameters()]
    engine = fast.engine
    assert fast.engine is engine


def test_tied_weights() -> None:
    original = made("MaskedLM")
    fast = accelerate(original)
    original.distilbert.embeddings.word_embeddings.weight.data.mul_(0.5)
    assert_same(fast, original)
    original.vocab_projector.weight = nn.Parameter(torch.randn(90, 48))
    assert_same(fast, original)


def test_a_few_numbers_that_no_look_sees_at_once() -> None:
    """Are followed later, and the caller is told that answers in between may have been of the old ones."""
    original = made()
    fast = accelerate(original)
    answers(fast)
    layer(original).ffn.lin1.weight.data[5, 7] += 20
    fast._watch.computed(1.0)
    with pytest.warns(RuntimeWarning, match=r"layer\.1\.ffn\.lin1\.weight was written to in a way that torch does not"):
        assert_same(fast, original)


def test_training_another_model_packs_nothing_anew() -> None:
    fast = accelerate(made())
    engine = fast.engine
    step(made(seed=1), "AdamW", fused=True)
    assert fast.engine is engine


def test_the_trainer_of_transformers(tmp_path: Path) -> None:
    """Whose default optimizer is fused."""
    original = made()
    fast = accelerate(original)
    before = answers(fast)
    rows = [{"input_ids": [1 + i % 50, *range(2, 9)], "labels": i % 3} for i in range(16)]
    arguments = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to=[], learning_rate=1e-2,
                                               save_strategy="no", num_train_epochs=1, disable_tqdm=True)  # fmt: skip
    transformers.Trainer(original, arguments, train_dataset=rows).train()
    assert_same(fast, original)
    assert (answers(fast) - before).abs().max() > 1e-3


def test_functional_calls() -> None:
    """They put other parameters into the modules for one call."""
    original = made()
    fast, other = accelerate(original), made(seed=1)
    weights = {name: tensor.detach() for name, tensor in other.named_parameters()}
    expected = answers(fast)
    for _ in range(2):
        with torch.no_grad():
            found = torch.func.functional_call(fast, weights, (IDS,)).logits
        torch.testing.assert_close(found, answers(other), rtol=TOLERANCE, atol=TOLERANCE)
        torch.testing.assert_close(answers(fast), expected, rtol=0, atol=0)
    loss = torch.func.functional_call(fast, dict(other.named_parameters()), (IDS,), {"labels": LABELS}).loss
    with pytest.raises(TypeError, match="computes no gradients"):
        loss.backward()


def lora(**options: Any) -> Any:
    return peft.LoraConfig(target_modules=["q_lin", "lin1"], r=4, lora_alpha=32, init_lora_weights=False, **options)


IA3 = peft.IA3Config(target_modules=["q_lin", "lin2"], feedforward_modules=["lin2"])


def test_adapters_on_the_original_are_refused_until_they_are_merged() -> None:
    original = made()
    fast = accelerate(original)
    before = answers(fast)
    adapted = peft.get_peft_model(original, lora()).eval()
    for _ in range(2):
        with pytest.raises(TypeError, match=r"q_lin of this DistilBertForSequenceClassification is a peft.* merge an"):
            answers(fast)
    adapted.merge_adapter()
    with pytest.raises(TypeError, match=r"PEFT: merge_and_unload\(\)"):
        answers(fast)
    adapted.unmerge_adapter()
    expected = answers(adapted)
    merged = adapted.merge_and_unload()
    assert merged is original
    assert_same(fast, original)
    assert (answers(fast) - expected).abs().max() <= 10 * TOLERANCE * expected.abs().max()
    assert (answers(fast) - before).abs().max() > 1e-2


def test_adapters_that_come_and_go_between_two_calls() -> None:
    original = made()
    fast = accelerate(original)
    before = answers(fast)
    peft.get_peft_model(original, lora()).merge_and_unload()
    assert_same(fast, original)
    assert (answers(fast) - before).abs().max() > 1e-2
    now = answers(fast)
    peft.get_peft_model(original, lora()).unload()
    assert_same(fast, original)
    assert (answers(fast) - now).abs().max() <= TOLERANCE * now.abs().max()


@pytest.mark.parametrize("config", [lora(), lora(task_type="SEQ_CLS"), IA3], ids=["lora", "classifier too", "ia3"])
def test_adapters_on_an_accelerated_model_are_refused(config: Any) -> None:
    """And neither it nor the original is any other than before."""
    original = made()
    fast = accelerate(original)
    before, names = answers(original), list(original.state_dict())
    with pytest.raises(TypeError, match=r"an accelerated model can't be changed; use \.to_transformers\(\)"):
        peft.get_peft_model(fast, config)
    assert list(original.state_dict()) == list(fast.state_dict()) == names
    assert all(parameter.requires_grad for parameter in original.parameters())
    assert torch.equal(answers(original), before)
    assert_same(fast, original)


def test_hooks_are_refused_while_they_are_there() -> None:
    original = made()
    fast = accelerate(original)
    before = answers(fast)
    for place in (layer(original), original.pre_classifier, fast.classifier):
        handle = place.register_forward_hook(lambda module, args, output: None)
        with pytest.raises(TypeError, match="has a hook, which would not run"):
            answers(fast)
        handle.remove()
        assert torch.equal(answers(fast), before)
    with pytest.raises(TypeError, match="an accelerated model can't be changed"):
        layer(fast).register_forward_hook(lambda module, args, output: None)
    seen: list[Any] = []
    fast.register_forward_hook(lambda module, args, output: seen.append(output))
    answers(fast)
    assert len(seen) == 1


def test_what_shares_modules_with_the_original_can_not_be_taken_apart() -> None:
    fast = accelerate(made())
    parts = fast.distilbert.transformer
    changes: list[Callable[[], object]] = [
        lambda: setattr(parts.layer[0], "ffn", nn.Identity()),
        lambda: setattr(fast.distilbert, "embeddings", nn.Identity()),
        lambda: parts.layer.append(nn.Identity()),
        lambda: parts.layer.pop(0),
        lambda: delattr(parts.layer[0].attention, "q_lin"),
        lambda: setattr(fast, "classifier", nn.Identity()),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="an accelerated model can't be changed"):
            change()
    assert_same(fast, fast.to_transformers())
    other = copy.deepcopy(fast.distilbert)
    other.transformer.layer.append(nn.Identity())
    with torch.no_grad():  # run by torch, with the hooks of transformers
        assert len(fast.distilbert(IDS, output_hidden_states=True).hidden_states) == 3


def test_old_parameters_are_let_go() -> None:
    original = made()
    fast = accelerate(original)
    gone = torch.utils.weak.WeakIdRef(original.classifier.weight)
    original.classifier = nn.Linear(48, 3)
    assert_same(fast, original)
    gc.collect()
    assert gone() is None
