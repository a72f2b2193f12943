"""BERTs, with token types and pooler, against transformers in float64: every head, from a folder and from a model."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from distilrt import accelerate
from distilrt.batch import TypedIds, pack
from distilrt.errors import InvalidInput
from distilrt.model import models
from distilrt.model.heads import HEADS

SIZES: dict[str, Any] = {
    "vocab_size": 101, "max_position_embeddings": 40, "num_hidden_layers": 2, "hidden_size": 48,
    "num_attention_heads": 3, "intermediate_size": 80, "num_labels": 3, "attn_implementation": "eager",
}  # fmt: skip
CLASSES = {head.bert: name for name, head in HEADS.items()}
BATCH, LENGTH = 4, 13


def bert(architecture: str, **changes: Any) -> Any:
    """transformers' model with every part made to matter."""
    torch.manual_seed(0)
    labels = {"num_labels": 2} if "Question" in architecture else {}
    model = getattr(transformers, architecture)(transformers.BertConfig(**SIZES | labels | changes)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 1.5 * weight.shape[1] ** -0.5 if weight.ndim == 2 and "embeddings" not in name else 0.3
            weight.copy_(torch.randn(weight.shape) * scale + float("norm" in name.lower() and name.endswith("weight")))
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder as transformers saves it."""

    def make(architecture: str, **changes: Any) -> Path:
        bert(architecture, **changes).save_pretrained(tmp_path / architecture)
        return tmp_path / architecture

    return make


def inputs(rng: np.random.Generator, choices: int = 0, types: int = 2, masked: str = "right") -> dict[str, Any]:
    """A padded batch with token types."""
    shape = (BATCH, choices, LENGTH) if choices else (BATCH, LENGTH)
    lengths = rng.integers(3, LENGTH + 1, shape[:-1])[..., None]
    mask = (np.arange(LENGTH) < lengths).astype(np.int64)
    return {
        "input_ids": rng.integers(0, 101, shape),
        "attention_mask": {"right": mask, "left": mask[..., ::-1].copy(), "none": np.ones_like(mask)}[masked],
        "token_type_ids": rng.integers(0, types, shape),
    }


def expected(model: Any, given: dict[str, Any], **options: Any) -> Any:
    """transformers' output in float64."""
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    with torch.no_grad():
        return model.to(torch.float64)(**tensors, **options)


def compare(ours: Any, theirs: Any, mask: Any, dtype: str) -> None:
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        for mine, exact in zip(
            *(each if isinstance(each, tuple) else (each,) for each in (ours[name], value)), strict=True
        ):
            exact = exact.numpy()
            if exact.shape[:2] == mask.shape:
                exact = np.where(mask.reshape(*mask.shape, *[1] * (exact.ndim - 2)) == 1, exact, 0)
            np.testing.assert_allclose(mine, exact, atol=3e-5 if dtype == "float32" else 1e-6, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("masked", ["none", "right", "left"])
@pytest.mark.parametrize("architecture", CLASSES)
def test_folder(
    architecture: str,
    masked: str,
    folder: Callable[..., Path],
    backend_dtype: tuple[str, str],
    rng: np.random.Generator,
) -> None:
    backend, dtype = backend_dtype
    ours = getattr(models, CLASSES[architecture]).from_pretrained(folder(architecture), backend=backend, dtype=dtype)
    given = inputs(rng, 3 if "Choice" in architecture else 0, masked=masked)
    theirs = expected(bert(architecture), given, output_hidden_states=True)
    mask = given["attention_mask"].reshape(-1, LENGTH)
    compare(ours(**given, output_hidden_states=True), theirs, mask, dtype)


@pytest.mark.parametrize("architecture", CLASSES)
def test_accelerated(architecture: str, rng: np.random.Generator) -> None:
    model = bert(architecture)
    given = {
        name: torch.from_numpy(array)
        for name, array in inputs(rng, 3 if "Choice" in architecture else 0, masked="left").items()
    }
    fast, mask = accelerate(model), given["attention_mask"].reshape(-1, LENGTH)
    with torch.no_grad():
        theirs, ours = model(**given, output_hidden_states=True), fast(**given, output_hidden_states=True)
    assert type(ours) is type(theirs)
    compare(ours, theirs, mask.numpy(), "float32")
    assert not torch.equal(ours[0], fast(given["input_ids"], given["attention_mask"])[0])


def test_positions_embeds_attentions_and_losses(folder: Callable[..., Path], rng: np.random.Generator) -> None:
    model = models.DistilBertForTokenClassification.from_pretrained(folder("BertForTokenClassification"))
    given = inputs(rng)
    ids = given.pop("input_ids")
    given |= {"position_ids": rng.integers(0, 40, (BATCH, LENGTH)), "labels": rng.integers(0, 3, (BATCH, LENGTH))}
    given["inputs_embeds"] = model.get_input_embeddings()(ids)
    theirs = expected(
        bert("BertForTokenClassification"), given | {"inputs_embeds": given["inputs_embeds"].astype(float)}
    )
    ours = model(**given)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-5)
    compare({"logits": ours.logits}, {"logits": theirs.logits}, given["attention_mask"], "float32")

    encoder = models.DistilBertModel.from_pretrained(folder("BertModel"))
    given = inputs(rng)
    probs = expected(bert("BertModel"), given, output_attentions=True).attentions
    seen = given["attention_mask"][:, None, :, None] * given["attention_mask"][:, None, None, :]
    for mine, exact in zip(encoder(**given, output_attentions=True).attentions, probs, strict=True):
        np.testing.assert_allclose(mine, exact.numpy() * seen, atol=1e-5)


@pytest.mark.parametrize("types", [1, 3])
def test_other_numbers_of_token_types(types: int, folder: Callable[..., Path], rng: np.random.Generator) -> None:
    model = models.DistilBertModel.from_pretrained(folder("BertModel", type_vocab_size=types))
    given = inputs(rng, types=types)
    theirs = expected(bert("BertModel", type_vocab_size=types), given)
    compare(model(**given), theirs, given["attention_mask"], "float32")


def test_pooler(folder: Callable[..., Path], tmp_path: Path, rng: np.random.Generator) -> None:
    ids = inputs(rng)["input_ids"]
    home = folder("BertModel")
    assert list(models.DistilBertModel.from_pretrained(home)(ids)) == ["last_hidden_state", "pooler_output"]
    pooled = models.DistilBertModel.from_pretrained(home)
    pair: Any = pooled(ids, return_dict=False)
    last, vector = pair
    np.testing.assert_allclose(vector, pooled(ids).pooler_output)
    np.testing.assert_array_equal(pooled.first_hidden_state(ids), last[:, 0])
    without = models.DistilBertModel.from_pretrained(folder("BertForTokenClassification"))
    assert list(without(ids)) == ["last_hidden_state"]
    pooled.save_pretrained(tmp_path / "saved")
    loaded: Any = transformers.BertModel
    again, info = loaded.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info.values())
    for name, tensor in again.state_dict().items():
        np.testing.assert_array_equal(pooled.state_dict()[name], tensor.numpy())
    assert set(models.DistilBertModel.from_pretrained(tmp_path / "saved").state_dict()) == set(again.state_dict())
    assert pooled.num_parameters() == again.num_parameters()


def test_the_encoder_of_a_head_is_that_of_transformers(folder: Callable[..., Path], rng: np.random.Generator) -> None:
    given = inputs(rng)
    for architecture in ("BertForSequenceClassification", "BertForTokenClassification"):
        ours: Any = getattr(models, CLASSES[architecture]).from_pretrained(folder(architecture))
        theirs = bert(architecture)
        assert ours.bert.num_parameters() == theirs.bert.num_parameters()
        assert ours.bert.state_dict().keys() == theirs.bert.state_dict().keys()
        found, exact = ours.bert(**given), expected(theirs.bert, given)
        compare(found, exact, given["attention_mask"], "float32")
        assert list(ours.distilbert(**given)) == list(found)
    pooled: Any = models.DistilBertModel.from_pretrained(folder("BertModel"))(**given)
    assert pooled.cross_attentions is pooled.past_key_values is None


@pytest.mark.parametrize("tied", [True, False])
def test_a_masked_language_model_has_its_bias_twice(tied: bool, folder: Callable[..., Path]) -> None:
    options = {"tie_word_embeddings": tied}
    ours = models.DistilBertForMaskedLM.from_pretrained(folder("BertForMaskedLM", **options))
    theirs = bert("BertForMaskedLM", **options)
    for embeddings in (False, True):
        counted = ours.num_parameters(exclude_embeddings=embeddings)
        assert counted == theirs.num_parameters(exclude_embeddings=embeddings)
    theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})


def test_token_types_in_the_place_of_embeddings(folder: Callable[..., Path], rng: np.random.Generator) -> None:
    model = models.DistilBertModel.from_pretrained(folder("BertModel"))
    with pytest.raises(InvalidInput, match="one of input_ids and inputs_embeds, and token_type_ids by their name"):
        model(*inputs(rng).values())


def test_packing_lists(backend: str, folder: Callable[..., Path], rng: np.random.Generator) -> None:
    """Lists with types, as tasks give them, are computed as a padded batch; without them their type is 0."""
    model = models.DistilBertModel.from_pretrained(folder("BertModel"), backend=backend)
    given = inputs(rng)
    rows = [
        grid[0, : given["attention_mask"][0].sum()].tolist() for grid in (given["input_ids"], given["token_type_ids"])
    ]
    hidden = model.backend.forward(pack(model.config, [[5, 6], TypedIds(*rows), TypedIds([5, 6])]))
    np.testing.assert_allclose(hidden[2 : 2 + len(rows[0])], model(**given)[0][0, : len(rows[0])], atol=1e-5)
    np.testing.assert_array_equal(hidden[:2], hidden[-2:])
    assert pickle.loads(pickle.dumps(TypedIds(*rows))).token_types == rows[1]
    with pytest.raises(InvalidInput, match="token_type_ids holds 2; token types of this model are 0 to 1"):
        pack(model.config, [TypedIds([5, 6], [0, 2])])
