"""LoRA adapters of PEFT: merged as PEFT merges them, named with their base or alone, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import safetensors.torch
import torch
import transformers

import distilrt
from distilrt.checkpoint import packed
from distilrt.checkpoint.source import Source
from distilrt.errors import CheckpointError
from distilrt.model import models
from distilrt.runtime.engine import Engine
from tests.checkpoint.reference_folders import MLM, SEQUENCE, bert, reference

IDS = np.array([[2, 7, 9, 30, 3], [2, 11, 12, 13, 3]])
ATTENTION = ["q_lin", "v_lin"]


def trained(base: Any, folder: Path, **options: Any) -> Any:
    """A model of PEFT whose adapter has random numbers, saved in `folder`."""
    settings: dict[str, Any] = {"task_type": "SEQ_CLS", "r": 4, "lora_alpha": 6}
    model = peft.get_peft_model(base, peft.LoraConfig(**settings | options))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(str(folder))
    return model.eval()


def folders(tmp_path: Path, base: Any, head: Any = None, **options: Any) -> tuple[str, str, Any]:
    """A base's folder, that of its adapter, and PEFT's model; the adapter is of `head` where that differs."""
    base.save_pretrained(tmp_path / "base")
    torch_base = base if head is None else head.from_pretrained(tmp_path / "base", num_labels=3)
    return str(tmp_path / "base"), str(tmp_path / "tuned"), trained(torch_base, tmp_path / "tuned", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ATTENTION},
        {"target_modules": [*ATTENTION, "k_lin", "out_lin", "lin1", "lin2"], "bias": "all"},
        {"target_modules": ATTENTION, "bias": "lora_only", "use_rslora": True},
        {"target_modules": ATTENTION, "rank_pattern": {r"layer\.0\.attention\.q_lin": 2},
         "alpha_pattern": {"v_lin": 3, "q_lin": 5}},
        {"target_modules": ["q_lin", "word_embeddings"]},
        {"target_modules": ["lin1"], "modules_to_save": ["sa_layer_norm"]},
    ],
)  # fmt: skip
def test_weights_are_those_that_peft_merges(tmp_path: Path, options: Any) -> None:
    base, tuned, model = folders(tmp_path, reference(SEQUENCE), **options)
    with torch.no_grad():
        logits = model(torch.tensor(IDS)).logits.numpy()
    merged = model.merge_and_unload().state_dict()
    ours = models.DistilBertForSequenceClassification.from_pretrained(f"{base}@{tuned}")
    found = ours.state_dict()
    assert found.keys() == merged.keys()
    for name, tensor in merged.items():
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(ours(IDS).logits, logits, atol=2e-5, rtol=1e-5)
    plain = models.DistilBertForSequenceClassification.from_pretrained(base)
    assert np.abs(plain(IDS).logits - logits).max() > 1e-2


def test_of_a_bert_with_old_names(tmp_path: Path) -> None:
    base, tuned, model = folders(
        tmp_path, bert("BertForSequenceClassification"), target_modules=["query", "dense"], bias="all"
    )
    path = tmp_path / "base" / "model.safetensors"
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in safetensors.torch.load_file(path).items()
    }
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    with torch.no_grad():
        logits = model(torch.tensor(IDS)).logits.numpy()
    ours = models.DistilBertForSequenceClassification.from_pretrained(f"{base}@{tuned}", backend="reference")
    np.testing.assert_allclose(ours(IDS).logits, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", [reference, bert])
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["word_embeddings"]},
        {"target_modules": ["DECODER"]},
        {"target_modules": ["lin1", "dense"], "modules_to_save": ["word_embeddings"]},
        {"target_modules": ["lin1", "dense"], "modules_to_save": ["DECODER"]},
        {"target_modules": ["lin1", "dense"], "modules_to_save": ["word_embeddings"], "ensure_weight_tying": True},
    ],
)
def test_one_of_two_tied_weights(tmp_path: Path, make: Any, options: Any) -> None:
    """The twin keeps the base's numbers, as in PEFT's model; PEFT's merge_and_unload() changes some twins."""
    decoder = "decoder" if make is bert else "vocab_projector"
    for name, modules in options.items():
        if isinstance(modules, list):
            options = options | {name: [decoder if module == "DECODER" else module for module in modules]}
    model = make("BertForMaskedLM" if make is bert else MLM)
    base, tuned, model = folders(tmp_path, model, task_type=None, **options)
    with torch.no_grad():
        logits = model(torch.tensor(IDS)).logits.numpy()
    ours = models.DistilBertForMaskedLM.from_pretrained(f"{base}@{tuned}")
    np.testing.assert_allclose(ours(IDS).logits, logits, atol=1e-4, rtol=1e-4)
    ours.save_pretrained(tmp_path / "saved")
    saved = models.DistilBertForMaskedLM.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(saved(IDS).logits, ours(IDS).logits)
    models.DistilBertModel.from_pretrained(f"{base}@{tuned}")


@pytest.mark.parametrize("initial", ["pissa", "pissa_niter_4", "olora", "loftq", ["gaussian"], 2])
def test_initial_factors_that_change_the_base(tmp_path: Path, initial: Any) -> None:
    base, tuned, _ = folders(tmp_path, reference(SEQUENCE), target_modules=ATTENTION)
    changed(tmp_path / "tuned", init_lora_weights=initial)
    with pytest.raises(CheckpointError, match="changes the weights of the base; give PEFT's save_pretrained"):
        models.DistilBertForSequenceClassification.from_pretrained(f"{base}@{tuned}")


@pytest.mark.parametrize("initial", ["pissa", "olora", "gaussian", "orthogonal", False])
def test_initial_factors(tmp_path: Path, initial: Any) -> None:
    """PEFT converts those that change the base."""
    model = reference(SEQUENCE)
    model.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=4, target_modules=ATTENTION, init_lora_weights=initial)
    tuned = peft.get_peft_model(model, config).eval()
    convert: dict[str, Any] = {}
    if initial in ("pissa", "olora"):
        config.init_lora_weights = True
        tuned.save_pretrained(str(tmp_path / "initial"))
        config.init_lora_weights = initial
        convert = {"path_initial_model_for_weight_conversion": str(tmp_path / "initial")}
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        logits = tuned(torch.tensor(IDS)).logits.numpy()
    tuned.save_pretrained(str(tmp_path / "tuned"), **convert)
    ours = models.DistilBertForSequenceClassification.from_pretrained(f"{tmp_path / 'base'}@{tmp_path / 'tuned'}")
    np.testing.assert_allclose(ours(IDS).logits, logits, atol=2e-5, rtol=1e-5)


def test_a_folder_with_a_model_and_its_adapter(tmp_path: Path) -> None:
    """The weights are the folder's, whatever base the adapter names, as in transformers."""
    base, tuned, _ = folders(tmp_path, reference(SEQUENCE), target_modules=ATTENTION)
    changed(tmp_path / "tuned", base_model_name_or_path="elsewhere/absent")
    shutil.copy(f"{base}/config.json", tuned)
    with pytest.raises(FileNotFoundError, match=r"has no weights.* It has an adapter: give BASE@"):
        models.DistilBertForSequenceClassification.from_pretrained(tuned)
    shutil.copy(f"{base}/model.safetensors", tuned)
    theirs: Any = transformers.DistilBertForSequenceClassification.from_pretrained(tuned)
    theirs.eval()
    with torch.no_grad():
        logits = theirs(torch.tensor(IDS)).logits.numpy()
    ours = models.DistilBertForSequenceClassification.from_pretrained(tuned)
    np.testing.assert_allclose(ours(IDS).logits, logits, atol=2e-5, rtol=1e-5)
    assert np.abs(models.DistilBertForSequenceClassification.from_pretrained(base)(IDS).logits - logits).max() > 1e-2
    shutil.copytree(tuned, tmp_path / "other")
    for name in ("model.safetensors", "config.json"):  # the weights are the base's, not those beside an adapter
        (tmp_path / "other" / name).unlink()
    (tmp_path / "other" / "model.safetensors").write_bytes(b"no weights")
    again = models.DistilBertForSequenceClassification.from_pretrained(f"{base}@{tmp_path / 'other'}")
    np.testing.assert_array_equal(again(IDS).logits, ours(IDS).logits)
    with pytest.raises(CheckpointError, match="has an adapter of its own, and distilrt merges one"):
        models.DistilBertForSequenceClassification.from_pretrained(f"{tuned}@{tmp_path / 'other'}")


def test_an_adapter_names_task_labels_and_base(tmp_path: Path) -> None:
    """The base is a masked language model, as most are; its adapter brings a head with three labels."""
    base, tuned, model = folders(
        tmp_path, reference(MLM), transformers.DistilBertForSequenceClassification, target_modules=ATTENTION
    )
    with torch.no_grad():
        logits = model(torch.tensor(IDS)).logits.numpy()
    for place in (tuned, f"{base}@{tuned}"):
        config = distilrt.DistilBertConfig.from_pretrained(place)
        assert (config.architectures, config.num_labels) == ((SEQUENCE,), 3)
        ours = models.DistilBertForSequenceClassification.from_pretrained(place)
        np.testing.assert_allclose(ours(IDS).logits, logits, atol=2e-5, rtol=1e-5)
    named = models.DistilBertForSequenceClassification.from_pretrained(tuned, id2label={0: "a", 1: "b", 2: "c"})
    assert named.config.label_names() == ["a", "b", "c"]
    assert str(Source.of(f"{base}@{tuned}")) == f"{base}@{tuned}"


def test_engines_of_one_base(tmp_path: Path, sentence_encoder: Path) -> None:
    """Named after both; the tokenizer is the base's, and pipelines and packed folders have the merged model."""
    reference(SEQUENCE, vocab_size=30522, max_position_embeddings=64).save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "vocab.txt").write_bytes((sentence_encoder / "vocab.txt").read_bytes())
    head = transformers.DistilBertForSequenceClassification
    for name, rank in (("first", 2), ("second", 3)):
        trained(head.from_pretrained(tmp_path / "base"), tmp_path / name, r=rank, target_modules=ATTENTION)
    found = []
    for name in ("first", "second"):
        place = f"{tmp_path}/base@{tmp_path / name}"
        with Engine(place, num_threads=1) as engine:
            assert engine.name == f"base@{name}"
            found.append(engine("text-classification", "The cat sat.", top_k=None))
        assert distilrt.pipeline("text-classification", place)("The cat sat.", top_k=None) == found[-1]
    assert found[0] != found[1]
    model = models.DistilBertForSequenceClassification.from_pretrained(place)
    packed.write(tmp_path / "packed", packed.of(model))
    opened = models.DistilBertForSequenceClassification.from_pretrained(tmp_path / "packed")
    np.testing.assert_array_equal(opened(IDS).logits, model(IDS).logits)
    with pytest.raises(CheckpointError, match="is packed, and an adapter is merged into float weights"):
        models.DistilBertForSequenceClassification.from_pretrained(f"{tmp_path}/packed@{tmp_path / 'first'}")


def changed(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def retensored(folder: Path, changes: dict[str, torch.Tensor]) -> None:
    path = folder / "adapter_model.safetensors"
    safetensors.torch.save_file({**safetensors.torch.load_file(path), **changes}, path)


LAYER = "base_model.model.distilbert.transformer.layer"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{LAYER}.0.attention.q_lin.lora_A.weight": torch.zeros(4, 31)}, "q_lin, whose weight is \\[32, 32\\]"),
        ({f"{LAYER}.0.attention.q_lin.lora_B.weight": torch.zeros(32, 3)}, "don't belong together"),
        ({f"{LAYER}.0.ffn.lin1.lora_A.weight": torch.zeros(4, 32)}, "don't belong together"),
        ({f"{LAYER}.7.attention.q_lin.lora_A.weight": torch.zeros(4, 32)}, "a layer that its base does not have"),
        (
            {f"{LAYER}.0.attention.q_lin.lora_A.weight": torch.zeros(4, 32).char()},
            "lora_A.weight of int8, allowed",
        ),
        ({f"{LAYER}.0.attention.q_lin.weight": torch.zeros(32, 32)}, "takes the place of the same weight; remove one"),
        ({"classifier.weight": torch.zeros(3, 32)}, "has both .*, which are the same; remove one"),
        (
            {
                "base_model.model.transformer.layer.0.ffn.lin1.bias": torch.zeros(64),
                f"{LAYER}.0.ffn.lin1.bias": torch.zeros(64),
            },
            "adapter_model.safetensors holds both",
        ),
        (
            {
                f"{LAYER}.0.attention.q_lin.lora_A.weight": torch.zeros(0, 32),
                f"{LAYER}.0.attention.q_lin.lora_B.weight": torch.zeros(32, 0),
            },
            "rank 0 of distilbert.*q_lin",
        ),
        ({"base_model.model.classifier.weight": torch.zeros(0, 32)}, "adapter_model.*a classifier without labels"),
        ({"base_model.model.classifier.bias": torch.full((3,), float("inf"))}, "adapter_model.safetensors holds NaN"),
        ({f"{LAYER}.0.attention.q_lin.lora_A.weight": torch.full((4, 32), 3e38)}, "adapter_model.*merged, holds NaN"),
        ({f"{LAYER}.0.attention.q_lin.lora_magnitude_vector": torch.zeros(32)}, "is no LoRA factor; merge the adapter"),
        ({"base_model.model.classifier.weight": torch.zeros(3, 31)}, "classifier.weight"),
        ({f"{LAYER}.0.attention.q_lin.lora_A.weight": torch.full((4, 32), float("nan"))}, "NaN or infinity"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, tensors: Any, message: str) -> None:
    base, tuned, _ = folders(tmp_path, reference(SEQUENCE), target_modules=ATTENTION)
    retensored(tmp_path / "tuned", tensors)
    with pytest.raises(CheckpointError, match=message):
        models.DistilBertForSequenceClassification.from_pretrained(f"{base}@{tuned}")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_dora": True}, "use_dora=True, which distilrt does not merge; merge the adapter with PEFT's"),
        ({"peft_type": "IA3"}, "peft_type 'IA3', distilrt merges 'LORA'"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"task_type": ["SEQ_CLS"]}, "PEFT saves no such"),
        ({"alpha_pattern": {"(": 3}}, "allowed are names of layers"),
        ({"alpha_pattern": {r"(([a-z0-9]|\.)+)+!": 3}}, "allowed are names of layers"),
        ({"alpha_pattern": {"(.*.*.*.*.*.*)*X": 3}}, "allowed are names of layers"),
        ({"alpha_pattern": {".*.*.*.*X": 3}}, "allowed are names of layers"),
        ({"alpha_pattern": {"a{99999999999999}": 3}}, "allowed are names of layers"),
        ({"alpha_pattern": {"(" * 5000 + "a" + ")" * 5000: 3}}, "allowed are names of layers"),
        ({"alpha_pattern": {"a" * 201: 3}}, "allowed are names of layers"),
        ({"alpha_pattern": {f"layer{i}": 3 for i in range(257)}}, "257 alpha_patterns, 256 are allowed"),
        ({"alpha_pattern": {"q_lin": 10**400}}, "is no number from -1e\\+09 to 1e\\+09"),
        ({"lora_alpha": 10**400}, "is no number from"),
        ({"lora_alpha": 1e308}, "adapter_config.json has a lora_alpha"),
        ({"lora_alpha": float("nan")}, "is no number from"),
        ({"alpha_pattern": [3]}, "PEFT saves no such"),
        ({"lora_alpha": "8"}, "is no number"),
    ],
)
def test_other_adapters(tmp_path: Path, fields: Any, message: str) -> None:
    base, tuned, _ = folders(tmp_path, reference(SEQUENCE), target_modules=ATTENTION)
    changed(tmp_path / "tuned", **fields)
    with pytest.raises(CheckpointError, match=message):
        models.DistilBertForSequenceClassification.from_pretrained(f"{base}@{tuned}")


@pytest.mark.parametrize(
    "pattern",
    ["q_lin", r"layer\.0\.attention\.q_lin", "^distilbert.*q_lin", "in", ".*",
     r".*layer\.\d+\.attention\.(q_lin|v_lin)", "transformer.layer.[01].attention.(?:q_lin|k_lin)",
     "v_lin|attention.q_lin", r"layer\.[0-9]+\..*lin$"],
)  # fmt: skip
def test_patterns_of_alpha(tmp_path: Path, pattern: str) -> None:
    base, tuned, _ = folders(tmp_path, reference(SEQUENCE), target_modules=ATTENTION)
    changed(tmp_path / "tuned", alpha_pattern={pattern: 11, "v_lin": 3})
    model = transformers.DistilBertForSequenceClassification.from_pretrained(base)
    with torch.no_grad():
        logits = peft.PeftModel.from_pretrained(model, tuned).eval()(torch.tensor(IDS)).logits.numpy()
    ours = models.DistilBertForSequenceClassification.from_pretrained(f"{base}@{tuned}")
    np.testing.assert_allclose(ours(IDS).logits, logits, atol=1e-4, rtol=1e-4)


def test_a_table_that_was_saved_with_its_factors(tmp_path: Path) -> None:
    """PEFT saves the base's table beside them where it was asked to."""
    base, tuned, model = folders(tmp_path, reference(SEQUENCE), target_modules=["word_embeddings"])
    with torch.no_grad():
        model.get_base_model().distilbert.embeddings.word_embeddings.base_layer.weight += 1
        logits = model(torch.tensor(IDS)).logits.numpy()
    model.save_pretrained(tuned, save_embedding_layers=True)
    ours = models.DistilBertForSequenceClassification.from_pretrained(f"{base}@{tuned}")
    np.testing.assert_allclose(ours(IDS).logits, logits, atol=2e-5, rtol=1e-5)


def test_a_layer_that_was_trained_whole_and_is_not_there(tmp_path: Path) -> None:
    base, tuned, _ = folders(tmp_path, reference(SEQUENCE), target_modules=ATTENTION)
    path = tmp_path / "tuned" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name: tensor for name, tensor in tensors.items() if "lora" in name}, path)
    with pytest.raises(CheckpointError, match=r"lacks (pre_)?classifier\..*, though modules_to_save names it; merge"):
        models.DistilBertForSequenceClassification.from_pretrained(f"{base}@{tuned}")
    for saved in ([["classifier"]], 5):
        changed(tmp_path / "tuned", modules_to_save=saved)
        with pytest.raises(CheckpointError, match="modules_to_save that are no names of layers"):
            models.DistilBertForSequenceClassification.from_pretrained(f"{base}@{tuned}")


def test_a_file_without_tensors(tmp_path: Path) -> None:
    base, tuned, _ = folders(tmp_path, reference(SEQUENCE), target_modules=ATTENTION)
    safetensors.torch.save_file({}, f"{tuned}/adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="has no tensors; save the adapter anew"):
        models.DistilBertForSequenceClassification.from_pretrained(f"{base}@{tuned}")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    base, tuned, _ = folders(tmp_path, reference(SEQUENCE), target_modules=ATTENTION)
    make = models.DistilBertForSequenceClassification.from_pretrained
    with pytest.raises(FileNotFoundError, match=r"has no adapter_config\.json; an adapter is a folder"):
        make(f"{base}@{base}")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        make(f"{base}@{tmp_path / 'absent'}")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        make(f"{tmp_path / 'absent'}@{tuned}")
    (tmp_path / "tuned" / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no adapter_model\.safetensors"):
        make(f"{base}@{tuned}")
    changed(tmp_path / "tuned", base_model_name_or_path=None)
    with pytest.raises(CheckpointError, match="names no base model in base_model_name_or_path; give BASE@"):
        make(tuned)


@pytest.mark.parametrize(("base", "adapter"), [("base", "a@d"), ("b@se", "tuned"), ("b@se", "a@d")])
def test_signs_in_the_names_of_both(tmp_path: Path, base: str, adapter: str) -> None:
    folders(tmp_path, reference(SEQUENCE), target_modules=ATTENTION)
    for name, other in (("base", base), ("tuned", adapter)):
        if name != other:
            shutil.copytree(tmp_path / name, tmp_path / other)
    source = Source.of(f"{tmp_path / base}@{tmp_path / adapter}")
    assert source.adapter is not None
    assert (source.folder, source.adapter.folder) == (tmp_path / base, tmp_path / adapter)
    models.DistilBertForSequenceClassification.from_pretrained(f"{tmp_path / base}@{tmp_path / adapter}")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        models.DistilBertForSequenceClassification.from_pretrained(f"{tmp_path / base}@{tmp_path / 'absent@d'}")


@pytest.mark.parametrize("name", ["BASE@", "@ADAPTER", "@"])
def test_a_name_with_one_part(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"'{name}' lacks a base or an adapter; BASE@ADAPTER are"):
        models.DistilBertModel.from_pretrained(name)


def test_a_folder_with_the_sign_in_its_name_is_itself(tmp_path: Path) -> None:
    reference(SEQUENCE).save_pretrained(tmp_path / "a@b")
    assert models.DistilBertForSequenceClassification.from_pretrained(tmp_path / "a@b")(IDS).logits.shape == (2, 3)
