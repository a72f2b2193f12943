"""Accelerated transformers models and pipelines against the originals: answers, behaviour of the objects, refusals.

Runs with transformers 5 and 4.57 (`make test-transformers4`).
"""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from distilrt import accelerate
from distilrt.backends import base as backends
from distilrt.errors import BackendError, CheckpointError, InvalidInput, TooLong
from distilrt.model.heads import HEADS

OLD = transformers.__version__.startswith("4")
TOLERANCE = 1e-5  # of the largest output
BERTS = tuple(head.bert for head in HEADS.values())
each_architecture = pytest.mark.parametrize("architecture", [*HEADS, *BERTS])
each_head = pytest.mark.parametrize("architecture", list(HEADS))
TOKEN_LEVEL = {"last_hidden_state": 3, "start_logits": 2, "end_logits": 2, "logits": 3}  # and their ranks


def made(architecture: str, *, seed: int = 0, attention: str = "sdpa", **changes: Any) -> Any:
    """A small model of transformers with every part made to matter."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"dim": 48, "n_heads": 3, "n_layers": 2, "hidden_dim": 80}
    config: Any = transformers.DistilBertConfig
    if architecture in BERTS or architecture.startswith("BertFor"):
        config = transformers.BertConfig
        names = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")
        shape = dict(zip(names, shape.values(), strict=True))
    settings = {**shape, "vocab_size": 101, "max_position_embeddings": 40, "attn_implementation": attention, **changes}
    model = getattr(transformers, architecture)(config(**settings)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 1.5 * weight.shape[1] ** -0.5 if weight.ndim == 2 and "embeddings" not in name else 0.3
            weight.copy_(torch.randn(weight.shape) * scale + float("norm" in name.lower() and "weight" in name))
    return model


def inputs_of(architecture: str, *, seed: int = 0, masked: bool = True) -> dict[str, torch.Tensor]:
    """Ids and a mask with holes, with a choices axis where the class has one."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 2, 11) if architecture.endswith("MultipleChoice") else (6, 11)
    inputs = {"input_ids": torch.randint(0, 101, shape, generator=generator)}
    if masked:
        mask = (torch.rand(shape, generator=generator) < 0.7).long()
        mask[..., -1] = 1
        inputs["attention_mask"] = mask
    return inputs


def assert_near(ours: Any, theirs: Any, selected: Any, tolerance: float) -> None:
    assert isinstance(ours, torch.Tensor)
    assert (ours.shape, ours.dtype, ours.device) == (theirs.shape, theirs.dtype, theirs.device)
    ours, theirs = ours.detach(), theirs.detach()
    if selected is not None:
        assert not ours[~selected].any()
        ours, theirs = ours[selected], theirs[selected]
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def assert_same_output(ours: Any, theirs: Any, mask: torch.Tensor | None, tolerance: float = TOLERANCE) -> None:
    """Compare every field, only where the mask is 1."""
    assert type(ours) is type(theirs)
    expected = {name: value for name, value in theirs.items() if value != () and name != "cross_attentions"}
    assert list(ours) == list(expected)
    flat = None if mask is None else mask.reshape(-1, mask.shape[-1]).bool()
    for name, value in expected.items():
        for mine, other in zip(*((v if isinstance(v, tuple) else (v,)) for v in (ours[name], value)), strict=True):
            if flat is None:
                assert_near(mine, other, None, tolerance)
            elif name == "attentions":
                both = (flat[:, :, None] & flat[:, None, :])[:, None].expand(mine.shape)
                assert_near(mine, other, both, tolerance)
            else:
                tokens = name == "hidden_states" or TOKEN_LEVEL.get(name) == mine.ndim
                assert_near(mine, other, flat if tokens else None, tolerance)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("masked", [True, False])
@each_architecture
def test_answers(architecture: str, masked: bool, seed: int) -> None:
    original = made(architecture, seed=seed, attention="eager")
    fast = accelerate(original)
    inputs = inputs_of(architecture, seed=seed, masked=masked)
    with torch.no_grad():
        for flags in ({}, {"output_hidden_states": True, "output_attentions": True}):
            assert_same_output(fast(**inputs, **flags), original(**inputs, **flags), inputs.get("attention_mask"))


@pytest.mark.skipif(OLD, reason="transformers 4 attends to everything where nothing is to be attended to")
@each_architecture
def test_narrow_heads_and_rows_of_the_mask_without_a_one(architecture: str) -> None:
    changes: dict[str, Any] = {"num_attention_heads" if architecture in BERTS else "n_heads": 12}
    original = made(architecture, **changes)
    inputs = inputs_of(architecture)
    inputs["attention_mask"][1] = 0
    with torch.no_grad():
        assert_same_output(accelerate(original)(**inputs), original(**inputs), inputs["attention_mask"])


@each_head
def test_embeddings_and_positions_in_place_of_ids(architecture: str) -> None:
    original = made(architecture)
    fast = accelerate(original)
    inputs = inputs_of(architecture)
    mask = inputs["attention_mask"]
    embeds = original.get_input_embeddings()(inputs.pop("input_ids")).detach() + 0.5
    with torch.no_grad():
        assert_same_output(fast(inputs_embeds=embeds, **inputs), original(inputs_embeds=embeds, **inputs), mask)
        if not OLD:
            positions = torch.randint(0, 40, (1, 11))
            call = {"inputs_embeds": embeds, "position_ids": positions, **inputs}
            assert_same_output(fast(**call), original(**call), mask)


LABELS: dict[str, dict[str, torch.Tensor]] = {
    "DistilBertForMaskedLM": {"labels": torch.randint(0, 101, (6, 11))},
    "DistilBertForSequenceClassification": {"labels": torch.tensor([0, 1, 1, 0, 1, 0])},
    "DistilBertForTokenClassification": {"labels": torch.randint(0, 2, (6, 11))},
    "DistilBertForMultipleChoice": {"labels": torch.tensor([0, 1, 1])},
    "DistilBertForQuestionAnswering": {"start_positions": torch.arange(6), "end_positions": torch.arange(6) + 4},
}


@pytest.mark.parametrize("architecture", list(LABELS))
def test_loss_of_labels(architecture: str) -> None:
    original = made(architecture)
    inputs, labels = inputs_of(architecture), LABELS[architecture]
    cases = [labels]
    if labels.get("labels", torch.zeros(1)).ndim == 2:  # at masked positions too, where a label counts as elsewhere
        cases.append({"labels": labels["labels"].masked_fill(inputs["attention_mask"] == 0, -100)})
    for case in cases:
        with torch.no_grad():
            theirs, ours = original(**inputs, **case), accelerate(original)(**inputs, **case)
        assert ours.loss.ndim == 0
        assert_same_output(ours, theirs, inputs["attention_mask"])


@each_architecture
def test_forms_of_a_call(architecture: str) -> None:
    original = made(architecture)
    fast, inputs = accelerate(original), inputs_of(architecture, masked=False)
    ids, mask = inputs["input_ids"], torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        expected = fast(**inputs)
        plain = fast(ids, mask, return_dict=False)
        assert isinstance(plain, tuple)
        theirs = original(ids, mask, return_dict=False)
        assert [tensor.shape for tensor in plain] == [tensor.shape for tensor in theirs]
        for found in (fast(ids, mask), fast(ids, attention_mask=mask), fast.forward(ids), fast(input_ids=ids),
                      fast(ids, token_type_ids=torch.zeros_like(ids)), fast(ids, mask, None)):  # fmt: skip
            assert torch.equal(found[0], expected[0])
        assert expected.hidden_states is None
        assert expected.to_tuple()[0] is expected[0]
        # What the config says holds where the call says nothing, also after a change.
        original.config.output_hidden_states = True
        assert len(fast(**inputs).hidden_states) == 3
        original.config.return_dict = False
        assert isinstance(fast(**inputs), tuple)


@each_architecture
def test_output_objects_are_those_of_the_constructor(architecture: str) -> None:
    with torch.no_grad():
        found = accelerate(made(architecture))(**inputs_of(architecture), output_hidden_states=True)
    built = type(found)(**found)
    assert list(found) == list(built)
    assert list(vars(found)) == list(vars(built))
    assert all(vars(found)[name] is vars(built)[name] for name in vars(built))
    found["extra"] = 1
    assert found.extra == 1
    assert copy.copy(built)[0] is built[0]
    assert pickle.loads(pickle.dumps(found)).to_tuple()[0].shape == built[0].shape


@each_architecture
def test_the_object_is_as_the_original(architecture: str) -> None:
    original = made(architecture)
    fast = accelerate(original)
    assert isinstance(fast, type(original))
    assert type(fast).__name__ == architecture
    assert fast.config is original.config
    assert (fast.device, fast.dtype, fast.num_parameters()) == (
        original.device, original.dtype, original.num_parameters(),
    )  # fmt: skip
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in original.named_parameters()]
    assert all(mine is other for mine, other in zip(fast.parameters(), original.parameters(), strict=True))
    assert list(fast.state_dict()) == list(original.state_dict())
    assert fast.get_input_embeddings() is original.get_input_embeddings()
    assert fast.to_transformers() is original
    assert type(original).__name__ == architecture
    assert accelerate(fast).to_transformers() is original
    assert inspect.signature(fast.forward) == inspect.signature(original.forward)
    assert inspect.signature(type(fast).forward) == inspect.signature(type(original).forward)
    assert not accelerate(original.train()).training
    assert fast.eval() is fast.train(False) is fast.to("cpu") is fast.float() is fast.to(torch.float32) is fast.cpu()


class Own(transformers.DistilBertForSequenceClassification):  # type: ignore[no-untyped-call]
    """A subclass that somebody else has written, in a module of theirs."""


def test_copies_and_pickles() -> None:
    original: Any = Own(made("DistilBertForSequenceClassification").config)
    original.eval()
    fast, inputs = accelerate(original, dtype="int8"), inputs_of("DistilBertForSequenceClassification")
    assert str(type(original))[8:-2] in str(type(fast))
    assert pickle.loads(pickle.dumps(type(fast))) is type(fast)
    fast.note, expected = "mine", fast(**inputs).logits
    for made_anew in (copy.deepcopy(fast), *(pickle.loads(pickle.dumps(fast, protocol)) for protocol in (2, 5))):
        assert type(made_anew) is type(fast)
        assert (made_anew.note, made_anew.engine.dtype) == ("mine", "int8")
        assert torch.equal(made_anew(**inputs).logits, expected)
        again = made_anew.to_transformers()
        assert type(again) is Own
        assert again is not original
        assert again.classifier.weight is made_anew.classifier.weight


def test_trainer_evaluates_and_predicts(tmp_path: Path) -> None:
    original = made("DistilBertForSequenceClassification", num_labels=3)
    data: Any = [{"input_ids": [7, k + 1, 3], "labels": k % 3, "text": "dropped by the signature"} for k in range(5)]
    found = []
    for model in (accelerate(original), original):
        arguments = transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, disable_tqdm=True)
        trainer = transformers.Trainer(model=model, args=arguments, eval_dataset=data)
        predicted: Any = trainer.predict(data)
        losses = [trainer.evaluate()["eval_loss"], predicted.metrics["test_loss"]]
        found.append([*losses, *predicted.predictions.ravel().tolist()])
    assert found[0] == pytest.approx(found[1], abs=TOLERANCE * max(map(abs, found[1])))
    trainer = transformers.Trainer(model=accelerate(original), args=arguments, train_dataset=data)
    with pytest.raises(TypeError, match=r"only infers; to train, use \.to_transformers"):
        trainer.train()


@pytest.mark.skipif(OLD, reason="transformers 4 gives all of them")
@pytest.mark.parametrize("wanted", [[0, 2], 1, -1, [-3, 9], [], 0], ids=str)
def test_chosen_hidden_states(wanted: Any) -> None:
    original = made("DistilBertForTokenClassification")
    inputs = inputs_of("DistilBertForTokenClassification")
    ours = accelerate(original)(**inputs, output_hidden_states=wanted).hidden_states
    theirs = original(**inputs, output_hidden_states=wanted).hidden_states
    assert (ours is None) is (theirs is None)
    for mine, other in zip(ours or (), theirs or (), strict=True):
        assert (mine is None) is (other is None)
        if other is not None:
            assert_near(mine, other, inputs["attention_mask"].bool(), TOLERANCE)


def test_parameters_are_shared_not_copied() -> None:
    original = made("DistilBertForMaskedLM")
    weights = accelerate(original).engine.weights
    for name, parameter in original.state_dict().items():
        assert np.shares_memory(weights[name.removeprefix("distilbert.")], parameter.numpy())
        assert not weights[name.removeprefix("distilbert.")].flags.writeable


def test_nothing_keeps_a_model_alive() -> None:
    original = made("DistilBertModel")
    fast = accelerate(original)
    fast(**inputs_of("DistilBertModel"))
    watched = [weakref.ref(original), weakref.ref(fast), weakref.ref(fast.engine)]
    del original, fast
    gc.collect()
    assert [reference() for reference in watched] == [None] * 3


@pytest.mark.parametrize("change", ["in place", "optimizer", "load_state_dict", "half", "share_memory", "resize"])
def test_changed_parameters_are_packed_anew(change: str) -> None:
    original = made("DistilBertForSequenceClassification")
    fast = accelerate(original)
    inputs = inputs_of("DistilBertForSequenceClassification")
    before, engine = fast(**inputs).logits, fast.engine
    assert fast.engine is engine
    tolerance = TOLERANCE
    if change == "in place":
        with torch.no_grad():
            original.distilbert.transformer.layer[1].ffn.lin2.bias[7] += 3
    elif change == "optimizer":
        optimizer = torch.optim.SGD(original.parameters(), lr=0.1)
        original(**inputs, labels=torch.zeros(6, dtype=torch.long)).loss.backward()
        optimizer.step()
    elif change == "load_state_dict":
        original.load_state_dict(made("DistilBertForSequenceClassification", seed=1).state_dict())
    elif change == "half":
        original.half()
        tolerance = 1e-2
    elif change == "share_memory":
        original.share_memory()
    else:
        original.resize_token_embeddings(150)
        inputs["input_ids"][:, 3] = 149
    with torch.no_grad():
        theirs, ours = original(**inputs).logits, fast(**inputs).logits
    assert_near(ours, theirs, None, tolerance)
    assert fast.engine is not engine
    assert change in ("share_memory", "half") or (before - ours).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("architecture", ["DistilBertForQuestionAnswering", "BertModel"])
def test_outputs_have_the_dtype_of_the_model(architecture: str, dtype: torch.dtype) -> None:
    original = made(architecture)
    exact = copy.deepcopy(original.to(dtype)).double()
    fast = accelerate(original)
    inputs = inputs_of(architecture)
    with torch.no_grad():
        ours, theirs = fast(**inputs, output_hidden_states=True), exact(**inputs, output_hidden_states=True)
    assert ours[0].dtype == ours.hidden_states[0].dtype == fast.dtype == dtype
    # The weights are exact in float32, so only the result is rounded.
    unit = max(torch.finfo(dtype).eps / 2, TOLERANCE)
    mask = inputs["attention_mask"].bool()
    assert ((ours[0].double() - theirs[0])[mask]).abs().max() <= 1.01 * unit * theirs[0][mask].abs().max() + TOLERANCE


def test_gradients_name_the_way_out() -> None:
    original = made("DistilBertForSequenceClassification")
    fast = accelerate(original)
    inputs, labels = inputs_of("DistilBertForSequenceClassification"), torch.zeros(6, dtype=torch.long)
    found = fast(**inputs, labels=labels, output_hidden_states=True)
    for tensor in (found.loss, found.logits.sum(), found.hidden_states[1].sum()):
        assert tensor.requires_grad
        with pytest.raises(TypeError, match=r"computes no gradients; to train, use \.to_transformers\(\)"):
            tensor.backward()
    found.logits[0, 0] = 1.0  # as with the original, no leaf
    embeds = torch.zeros(2, 3, 48, requires_grad=True)
    with pytest.raises(TypeError, match="inputs_embeds requires a gradient"):
        fast(inputs_embeds=embeds)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert not fast(**inputs).logits.requires_grad
            assert fast(inputs_embeds=embeds).logits.shape == (2, 2)
    original.requires_grad_(False)
    assert not accelerate(original)(**inputs).logits.requires_grad
    for switch in (fast.train, torch.nn.Sequential(fast).train):
        expected = fast.eval()(**inputs).logits
        switch()
        assert fast.training
        with pytest.raises(TypeError, match=r"only infers; to train, use \.to_transformers.*call eval\(\)"):
            fast(**inputs)
        assert torch.equal(fast.eval()(**inputs).logits, expected)


def test_what_cannot_be_done_names_the_way_out() -> None:
    fast = accelerate(made("DistilBertForSequenceClassification"))
    ids = torch.ones(2, 5, dtype=torch.long)
    trace: Any = torch.jit.trace
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: fast(ids, head_mask=torch.ones(2, 3)), "does not support 'head_mask', only attention_mask"),
        (lambda: fast(ids, encoder_hidden_states=ids), "does not support 'encoder_hidden_states'"),
        (lambda: fast(ids, attention_mask=torch.ones(2, 1, 5, 5)), "attention_mask has 4 dimensions"),
        (lambda: fast(inputs_embeds=torch.ones(2, 5, 48), attention_mask=torch.ones(2, 5, 5)), "has 3 dimensions"),
        (fast.half, "can't be moved to cpu or cast to torch.float16"),
        (lambda: fast.to("meta"), "can't be moved to meta"),
        (lambda: fast.load_state_dict({}), "load_state_dict: an accelerated model can't be changed"),
        (lambda: fast.resize_token_embeddings(3), "resize_token_embeddings: an accelerated"),
        (lambda: fast.set_input_embeddings(None), "set_input_embeddings: an accelerated"),
        (fast.gradient_checkpointing_enable, "gradient_checkpointing_enable: an accelerated"),
        (
            lambda: setattr(fast, "classifier", torch.nn.Linear(48, 3)),
            "classifier: an accelerated model can't be changed",
        ),
        (lambda: fast.add_module("more", torch.nn.Linear(48, 3)), "add_module: an accelerated"),
        (lambda: trace(fast, (ids,), strict=False), "can't be traced by torch.jit"),
    ]
    for call, message in calls:
        with pytest.raises(TypeError, match=message) as caught:
            call()
        assert ".to_transformers()" in str(caught.value)
    with pytest.raises(TypeError, match="input_ids must be a torch tensor, found list"):
        fast([[1, 2]])
    with pytest.raises(TypeError, match="multiple values for argument 'input_ids'"):
        fast(ids, input_ids=ids)
    with pytest.raises(TypeError, match="positional arguments, found 99"):
        fast(*[None] * 99)
    with pytest.raises(InvalidInput, match="token ids of this model are 0 to 100"):
        fast(ids + 100)
    with pytest.raises(TooLong):
        fast(torch.ones(1, 41, dtype=torch.long))
    # As pipelines call all models, whatever these have.
    assert fast(ids, head_mask=None, use_cache=False).logits.shape == (2, 2)


def test_bert() -> None:
    model = made("BertModel")
    fast, ids = accelerate(model), torch.ones(2, 5, dtype=torch.long)
    with pytest.raises(InvalidInput, match="token_type_ids holds 2; token types of this model are 0 to 1"):
        fast(ids, token_type_ids=ids + 1)
    with torch.no_grad():
        ours, theirs = fast(ids, token_type_ids=ids), model(ids, token_type_ids=ids)
    for name in ("last_hidden_state", "pooler_output"):
        assert_near(ours[name], theirs[name], None, TOLERANCE)
    without_pooler: Any = transformers.BertModel(fast.config, add_pooling_layer=False)
    assert accelerate(without_pooler.eval())(ids).pooler_output is None
    with pytest.raises(CheckpointError, match="layer_norm_eps"):
        accelerate(made("BertModel", layer_norm_eps=1e-5))


def test_only_what_is_computed_exactly_is_accelerated() -> None:
    reference: Any = transformers.DistilBertModel

    class WithPrompt(reference):  # type: ignore[misc]
        def forward(self, input_ids: Any = None, **options: Any) -> Any:
            return super().forward(input_ids + 1, **options)

    class Plain(reference):  # type: ignore[misc]
        pass

    config = made("DistilBertModel").config
    with pytest.raises(TypeError, match="WithPrompt has another forward than DistilBertModel"):
        accelerate(WithPrompt(config))
    assert type(accelerate(Plain(config))).__name__ == "Plain"
    patched = made("DistilBertModel")
    patched.forward = lambda *args: None
    with pytest.raises(TypeError, match="has a forward of its own"):
        accelerate(patched)
    for thing in (7, torch.nn.Linear(2, 2), torch.compile(made("DistilBertModel"))):
        with pytest.raises(TypeError, match="accelerate takes a transformers model or pipeline"):
            accelerate(thing)
    with pytest.raises(TypeError, match=r"accelerate takes DistilBertModel, .* of transformers, found RobertaModel"):
        accelerate(transformers.RobertaModel(transformers.RobertaConfig(hidden_size=32, num_attention_heads=2,
                   num_hidden_layers=1, intermediate_size=32, vocab_size=9)))  # fmt: skip
    with pytest.raises(ValueError, match="backend must be one of"):
        accelerate(made("DistilBertModel"), backend="tpu")
    with pytest.raises(BackendError, match="float9"):
        accelerate(made("DistilBertModel"), dtype="float9")
    changed = made("DistilBertModel")
    changed.transformer.layer[0].ffn.lin3 = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="this DistilBertModel has extra tensors"):
        accelerate(changed)


def test_auto_is_the_cpu_for_a_model_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine with a GPU, unless DISTILRT_BACKEND says otherwise."""
    monkeypatch.setattr(backends, "why_not_cuda", lambda: "")
    assert accelerate(made("DistilBertModel")).engine.backend.name == "cpu"
    monkeypatch.setenv("DISTILRT_BACKEND", "reference")
    assert accelerate(made("DistilBertModel")).engine.backend.name == "reference"


def test_backend_and_dtype_are_chosen() -> None:
    original = made("DistilBertModel")
    inputs = inputs_of("DistilBertModel")
    with torch.no_grad():
        expected = original(**inputs)
        assert_same_output(accelerate(original, backend="reference")(**inputs), expected, inputs["attention_mask"])
        quantized = accelerate(original, dtype="int8")
        assert quantized.engine.dtype == "int8"
        assert quantized.dtype == torch.float32
        assert_same_output(quantized(**inputs), expected, inputs["attention_mask"], 0.2)


def test_copies_and_processes(tmp_path: Path) -> None:
    fast = accelerate(made("DistilBertForTokenClassification"), dtype="int8")
    inputs = inputs_of("DistilBertForTokenClassification")
    expected = fast(**inputs).logits
    for other in (pickle.loads(pickle.dumps(fast)), copy.deepcopy(fast), copy.copy(fast)):
        assert other.engine.dtype == "int8"
        assert torch.equal(other(**inputs).logits, expected)
    assert copy.deepcopy(fast).to_transformers() is not fast.to_transformers()
    assert copy.copy(fast).to_transformers() is fast.to_transformers()
    fast.save_pretrained(tmp_path)
    saved = transformers.DistilBertForTokenClassification.from_pretrained(tmp_path)
    assert saved.config.architectures == ["DistilBertForTokenClassification"]
    assert torch.equal(accelerate(saved, dtype="int8")(**inputs).logits, expected)


def test_many_threads() -> None:
    fast = accelerate(made("DistilBertForMaskedLM"))
    batches = [inputs_of("DistilBertForMaskedLM", seed=seed) for seed in range(16)]
    with torch.no_grad():
        expected = [fast(**batch).logits for batch in batches]

    def run(batch: Any) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = fast(**batch).logits
        return logits

    with ThreadPoolExecutor(8) as pool:
        assert all(map(torch.equal, pool.map(run, batches), expected))


@each_architecture
def test_compiled_programs_hold_the_engine_whole(architecture: str) -> None:
    torch._dynamo.reset()
    fast = accelerate(made(architecture))

    def program(**inputs: torch.Tensor) -> Any:
        output = fast(**inputs, output_hidden_states=True)
        return output, output[0].mean() + output.hidden_states[1].sum()

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        for seed in range(2):
            inputs = inputs_of(architecture, seed=seed)
            (found, total), (expected, expected_total) = compiled(**inputs), program(**inputs)
            assert_same_output(found, expected, inputs["attention_mask"], tolerance=0)
            torch.testing.assert_close(total, expected_total, rtol=1e-4, atol=1e-3)
    torch._dynamo.reset()


BIO = {0: "O", 1: "B-PER", 2: "I-PER"}
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
TASKS: dict[str, tuple[str, dict[str, Any], Any, dict[str, Any]]] = {
    "text-classification": ("DistilBertForSequenceClassification", {}, ["a b c", "d"], {"top_k": None}),
    "fill-mask": ("DistilBertForMaskedLM", {}, ["Paris is [MASK].", "[MASK] a [MASK]"], {}),
    "token-classification": ("DistilBertForTokenClassification", {"id2label": BIO}, ["Ada Lovelace", "x"], {}),
    "feature-extraction": ("DistilBertModel", {}, ["a b c", "d"], {}),
    "zero-shot-classification": ("DistilBertForSequenceClassification", {"id2label": NLI}, ["a b"],
                                 {"candidate_labels": ["x", "y z"]}),
}  # fmt: skip
if OLD:
    TASKS["question-answering"] = ("DistilBertForQuestionAnswering", {},
                                   [{"question": "Who?", "context": "Ada Lovelace wrote."}], {})  # fmt: skip


def assert_same_answer(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same_answer(ours[key], theirs[key])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same_answer(one, other)
    elif isinstance(theirs, float | np.floating):
        assert ours == pytest.approx(theirs, abs=1e-4)
    else:
        assert ours == theirs


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("task", list(TASKS))
def test_pipelines(folder_of: Callable[..., Path], task: str, batch_size: int) -> None:
    architecture, changes, inputs, params = TASKS[task]
    folder = folder_of(architecture, **changes)
    original: Any = transformers.pipeline(task, model=str(folder), device="cpu")  # type: ignore[call-overload]
    fast = accelerate(original)
    assert isinstance(fast, type(original))
    assert fast.to_transformers() is original
    assert fast.model.to_transformers() is original.model
    expected = original(inputs, **params, batch_size=batch_size)
    if task == "feature-extraction" and batch_size > 1:
        expected = [original(text) for text in inputs]  # whose padding has other numbers
        found = [fast(text) for text in inputs]
    else:
        found = fast(inputs, **params, batch_size=batch_size)
    assert_same_answer(found, expected)
    make: Any = transformers.pipeline
    around = make(task, model=fast.model, tokenizer=original.tokenizer, device="cpu")
    assert_same_answer(around(inputs, **params), original(inputs, **params))
    assert accelerate(fast, dtype="int8").model.engine.dtype == "int8"
    assert pickle.loads(pickle.dumps(fast)).model.engine.dtype == "float32"
