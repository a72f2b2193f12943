"""A SetFit classifier: trained by torch, and answering with an accelerated body."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from setfit import SetFitModel, Trainer, TrainingArguments
from sklearn.linear_model import LogisticRegression

from distilrt import accelerate

GOOD = ["a charming and often affecting journey", "what a wonderful film", "I loved every minute",
        "brilliant acting and a great story"]  # fmt: skip
BAD = ["slow, very, very slow", "a waste of time", "boring and badly acted", "the worst movie of the year"]
TEXTS = ["an excellent picture, moving and fun", "dreadful, do not bother", "I enjoyed it a lot", "so bad that I left"]
ANSWERS = ["positive", "negative", "positive", "negative"]
LABELS = ["negative", "positive"]


@pytest.fixture(scope="module")
def rows() -> Any:
    """Eight examples."""
    return datasets.Dataset.from_dict({"text": GOOD + BAD, "label": ["positive"] * 4 + ["negative"] * 4})


@pytest.fixture
def trainer_of(rows: Any, tmp_path: Path) -> Callable[[Any], Any]:
    """Makes SetFit's trainer, of four steps."""

    def make(model: Any) -> Any:
        arguments = TrainingArguments(
            output_dir=str(tmp_path), batch_size=8, max_steps=4, seed=0, report_to="none", save_strategy="no"
        )
        return Trainer(model=model, args=arguments, train_dataset=rows)

    return make


def test_few_shots(
    sentence_encoder: Path, trainer_of: Callable[[Any], Any], only_distilrt: Any, assert_near: Any, tmp_path: Path
) -> None:
    model = SetFitModel.from_pretrained(str(sentence_encoder), labels=LABELS, device="cpu")
    fast = accelerate(model.model_body)
    untrained = fast.encode(TEXTS)
    trainer_of(model).train()
    trained = model.encode(TEXTS)
    assert abs(trained - untrained).max() > 1e-3
    assert_near(fast.encode(TEXTS), trained)  # the training that came after accelerate()
    expected = model.predict_proba(TEXTS)
    model.model_body = fast
    with only_distilrt():
        assert list(model.predict(TEXTS)) == ANSWERS
        assert torch.allclose(model.predict_proba(TEXTS), expected, rtol=0, atol=1e-5)
    model.to("cpu").save_pretrained(str(tmp_path / "saved"))
    loaded = SetFitModel.from_pretrained(str(tmp_path / "saved"), device="cpu")
    assert list(loaded(TEXTS)) == ANSWERS
    loaded.model_body = accelerate(loaded.model_body)
    with only_distilrt():
        assert list(loaded(TEXTS)) == ANSWERS
        assert torch.allclose(loaded.predict_proba(TEXTS), expected, rtol=0, atol=1e-5)


def test_only_the_head_is_trained(fast: Any, rows: Any, only_distilrt: Any) -> None:
    model = SetFitModel(model_body=fast, model_head=LogisticRegression())
    with only_distilrt():
        model.fit(rows["text"], rows["label"], num_epochs=1)
        assert list(model.predict(TEXTS)) == ANSWERS


def test_an_accelerated_body_is_not_trained(fast: Any, trainer_of: Callable[[Any], Any]) -> None:
    model = SetFitModel(model_body=fast, model_head=LogisticRegression(), labels=LABELS)
    with pytest.raises(TypeError, match=r"only infers; to train, use \.to_transformers\(\)"):
        trainer_of(model).train()
