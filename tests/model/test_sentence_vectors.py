"""Sentence-transformers folders answer as sentence-transformers itself: every pooling, layer, setting and layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling
from sentence_transformers.sparse_encoder.modules import SpladePooling
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from typer.testing import CliRunner

import distilrt
from distilrt.cli import app
from distilrt.errors import TooLong
from distilrt.runtime.engine import Engine
from distilrt.runtime.loading import load
from distilrt.scale.ray_data import Predictor

Made = Callable[..., Path]
TEXTS = ["The cat sat on the mat.", "HELLO World, how are you?", "a"]
PROMPTS = {"query": "find me: ", "document": ""}
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@pytest.fixture
def made(folder_of: Callable[..., Path], tmp_path: Path) -> Made:
    """Saves a tiny sentence-transformers model; keywords change the settings that its files hold."""

    def make(modes: Any = "mean", layers: Iterable[Any] = (), *, safe: bool = True, **settings: Any) -> Path:
        torch.manual_seed(0)
        transformer = Transformer(str(folder_of("DistilBertModel")))
        modules = [transformer, Pooling(48, modes, include_prompt=settings.pop("include_prompt", True)), *layers]
        for layer in layers:
            if isinstance(layer, LayerNorm):
                torch.nn.init.normal_(layer.norm.weight)
                torch.nn.init.normal_(layer.norm.bias)
        model = SentenceTransformer(modules=modules, device="cpu", **settings)
        model.save(str(tmp_path / "st"), safe_serialization=safe)
        return tmp_path / "st"

    return make


def edit(file: Path, **changes: Any) -> None:
    """Change fields of a JSON object, which may not be there yet."""
    values = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(values | changes))


def same_vectors(folder: Path, texts: list[str] = TEXTS, reference: Path | None = None, **params: Any) -> None:
    wanted = SentenceTransformer(str(reference or folder), device="cpu").encode(texts)
    with Engine(folder) as engine:
        found = engine("feature-extraction", texts, pooling="sentence", truncation=True, **params)
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("modes", ["mean", "cls", "lasttoken", ("max", "mean"), tuple(reversed(MODES))], ids=str)
@pytest.mark.parametrize("prompted", [False, True])
def test_poolings(made: Made, modes: Any, prompted: bool) -> None:
    options = {"prompts": PROMPTS, "default_prompt_name": "query", "include_prompt": False} if prompted else {}
    same_vectors(made(modes, **options))


@pytest.mark.parametrize(
    "layers",
    [
        [Dense(48, 20)],
        [Dense(48, 48, bias=False, activation_function=torch.nn.Identity(), use_residual=True), Normalize()],
        [Dropout(0.5), LayerNorm(48), Dense(48, 64, activation_function=torch.nn.GELU(), use_residual=True)],
        [Normalize(), Dense(48, 30, activation_function=torch.nn.SiLU()), Dense(30, 9, True, torch.nn.ReLU())],
        [Dense(48, 20, activation_function=torch.nn.Sigmoid())],
    ],
    ids=lambda layers: "+".join(type(layer).__name__ for layer in layers),
)
def test_layers(made: Made, layers: list[Any]) -> None:
    same_vectors(made("mean", layers, safe=len(layers) > 1))


def test_old_files(made: Made, tmp_path: Path) -> None:
    """Flags for the pooling, old names of classes, the transformer in a folder of its own with its old settings."""
    folder, old = made(layers=[Dense(96, 20)]), tmp_path / "old"
    flags = {"word_embedding_dimension": 48, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True,
             "pooling_mode_mean_tokens": False}  # fmt: skip
    (folder / "1_Pooling/config.json").write_text(json.dumps(flags))
    modules = json.loads((folder / "modules.json").read_text())
    for module, kind in zip(modules, ("Transformer", "Pooling", "Dense"), strict=True):
        module["type"] = f"sentence_transformers.models.{kind}"
    modules[0]["path"] = "0_Transformer"
    shutil.copytree(folder, old / "0_Transformer", ignore=lambda _, names: {n for n in names if n[0].isdigit()})
    for name in ("1_Pooling", "2_Dense"):
        shutil.copytree(folder / name, old / name)
    (old / "0_Transformer/sentence_bert_config.json").write_text('{"max_seq_length": 10, "do_lower_case": false}')
    (old / "modules.json").write_text(json.dumps(modules))
    same_vectors(old, [*TEXTS, "a b c d e f g h i j"])
    packed = tmp_path / "packed"
    assert CliRunner().invoke(app(), ["pack", str(old), str(packed), "--dtype", "float32"]).exit_code == 0
    same_vectors(packed, [*TEXTS, "a b c d e f g h i j"], old)
    facts = json.loads(CliRunner().invoke(app(), ["info", "--model", str(old), "--json"]).stdout)["model"]
    assert (facts["architecture"], facts["max_input_tokens"]) == ("DistilBertModel", 10)
    assert distilrt.verify(old).ok

    older = tmp_path / "older"  # sentence-transformers itself does not know this name any more
    shutil.copytree(old, older)
    modules[0]["type"] = "sentence_transformers.models.DistilBERT"
    (older / "modules.json").write_text(json.dumps(modules))
    settings = older / "0_Transformer/sentence_bert_config.json"
    settings.rename(settings.with_name("sentence_distilbert_config.json"))
    same_vectors(older, [*TEXTS, "a b c d e f g h i j"], old)


def test_the_modules_decide_what_a_folder_is_loaded_as(made: Made) -> None:
    folder = made()
    edit(folder / "config.json", architectures=["DistilBertForMaskedLM"])  # of before it was fine-tuned
    same_vectors(folder)


@pytest.mark.parametrize(
    ("where", "model_max_length"),
    [("tokenizer", 9), ("settings", 512), ("settings", 5), ("arguments", 5), ("calls", 5)],
)
def test_one_length_cuts_refuses_and_is_told(made: Made, where: str, model_max_length: int) -> None:
    """The length that the folder's own files name wins over the tokenizer's, whichever is smaller."""
    folder, text = made(), "a b c d e f g h i j k"
    edit(folder / "tokenizer_config.json", model_max_length=model_max_length)
    if where != "tokenizer":
        changes: dict[str, dict[str, Any]] = {
            "settings": {"max_seq_length": 9},
            "arguments": {"tokenizer_args": {"model_max_length": 9}},
            "calls": {"processing_kwargs": {"text": {"max_length": 9}}},
        }
        edit(folder / "sentence_bert_config.json", **changes[where])
    same_vectors(folder, [text])
    with Engine(folder) as engine:
        assert engine.describe()["max_input_tokens"] == 9
        for task, inputs in (("feature-extraction", text), ("outputs", text), ("feature-extraction", [[*range(10)]])):
            with pytest.raises(TooLong, match="this model reads at most 9"):
                engine(task, inputs)
        with pytest.raises(ValueError, match="max_length must be at most 9, what this model reads, found 10"):
            engine("feature-extraction", text, max_length=10)


def test_all_minilm_is_cut_at_its_own_length(sentence_encoder: Path) -> None:
    same_vectors(sentence_encoder, ["The parcel was left with your neighbour. " * 40, *TEXTS])


def test_lower_case_before_a_cased_tokenizer(made: Made) -> None:
    folder = made()
    edit(folder / "tokenizer_config.json", do_lower_case=False, strip_accents=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer.lowercase = False
    tokenizer.normalizer.strip_accents = False
    tokenizer.save(str(folder / "tokenizer.json"))
    edit(folder / "sentence_bert_config.json", do_lower_case=True)
    same_vectors(folder, ["HELLO World", "NAÏVE Ångström"])


def test_similarity_with_prompts_and_cut_vectors(made: Made, tmp_path: Path) -> None:
    folder, packed = made(layers=[Dense(48, 20)], prompts=PROMPTS, default_prompt_name="query"), tmp_path / "packed"
    item = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}
    for name in ("cosine", "dot", "euclidean", "manhattan"):
        edit(folder / "config_sentence_transformers.json", similarity_fn_name=name, truncate_dim=7)
        theirs = SentenceTransformer(str(folder), device="cpu")
        vectors = theirs.encode(TEXTS)
        wanted = theirs.similarity(vectors[:1], vectors[1:])[0].numpy()
        found = distilrt.pipeline("sentence-similarity", folder)(item)
        np.testing.assert_allclose(found, wanted, atol=1e-5 * max(1, np.abs(wanted).max()))
    assert CliRunner().invoke(app(), ["pack", str(folder), str(packed), "--dtype", "float32"]).exit_code == 0
    assert distilrt.pipeline("sentence-similarity", packed)(item) == pytest.approx(found, abs=1e-5)
    same_vectors(folder)
    rows = Predictor("feature-extraction", folder, params={"normalize": False})({"text": TEXTS})
    np.testing.assert_allclose(rows["embedding"], vectors, atol=1e-5)
    with Engine(folder) as engine:
        longer = engine("feature-extraction", TEXTS[0], pooling="sentence", dimensions=20)
        np.testing.assert_allclose(longer, theirs.encode(TEXTS[0], truncate_dim=20), atol=1e-5)
        with pytest.raises(ValueError, match="dimensions must be at most 20, those of this model, found 21"):
            engine("feature-extraction", TEXTS[0], pooling="sentence", dimensions=21)


def test_token_ids_have_no_prompt_to_leave_out(made: Made) -> None:
    options: dict[str, Any] = {"prompts": PROMPTS, "default_prompt_name": "query", "include_prompt": False}
    folder = made("weightedmean", **options)
    _, tokenizer, _ = load(folder, None, None, backend="auto", dtype="auto", num_threads=None)
    with Engine(folder) as engine:
        ids, text = engine("feature-extraction", [tokenizer(TEXTS[0])["input_ids"], TEXTS[0]], pooling="sentence",
                           prompt="")  # fmt: skip
        assert ids == text
        assert engine("feature-extraction", [tokenizer(TEXTS[0])["input_ids"]], pooling="sentence") == [ids]


def test_a_prompt_to_leave_out_that_no_special_token_ends(made: Made) -> None:
    options: dict[str, Any] = {"prompts": PROMPTS, "default_prompt_name": "query", "include_prompt": False}
    folder = made("max", **options)
    rust = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rust.post_processor = TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    with Engine(folder) as engine:
        bare = engine("feature-extraction", TEXTS, pooling="sentence", add_special_tokens=False)
    rust.save(str(folder / "tokenizer.json"))
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    same_vectors(folder)
    with Engine(folder) as engine:
        assert engine("feature-extraction", TEXTS, pooling="sentence") == bare


def test_a_mode_by_itself_leaves_the_modules_out(made: Made) -> None:
    with Engine(made("max", [Dense(48, 20)])) as engine:
        [rows] = engine("feature-extraction", TEXTS[0])
        mean = engine("feature-extraction", TEXTS[0], pooling="mean")
        assert engine.pooling == "max"
    np.testing.assert_allclose(mean, np.mean(rows, axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "settings"),
    [
        ({}, {}),
        ({"pooling_strategy": "sum"}, {}),
        ({"activation_function": "log1p_relu"},
         {"prompts": PROMPTS, "default_prompt_name": "query", "max_active_dims": 11}),
    ],
    ids=str,
)  # fmt: skip
def test_splade(folder_of: Callable[..., Path], tmp_path: Path, pooling: Any, settings: Any) -> None:
    transformer = Transformer(str(folder_of("DistilBertForMaskedLM")), transformer_task="fill-mask")
    SparseEncoder(modules=[transformer, SpladePooling(**pooling)], device="cpu", **settings).save(str(tmp_path))
    edit(tmp_path / "sentence_bert_config.json", max_seq_length=6)
    texts = [*TEXTS, "ada lovelace wrote programs in london"]
    wanted = SparseEncoder(str(tmp_path), device="cpu").encode(texts).to_dense().numpy()
    pipe = distilrt.pipeline("sparse-embedding", tmp_path, truncation=True)
    with Engine(tmp_path) as engine:
        for found in (pipe(texts), engine("sparse-embedding", texts, truncation=True)):
            dense = np.zeros_like(wanted)
            for row, items in zip(dense, found, strict=True):
                row[[item["index"] for item in items]] = [item["value"] for item in items]
            np.testing.assert_allclose(dense, wanted, atol=1e-4 * wanted.max())
