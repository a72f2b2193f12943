"""Every task in Chromium: what is asked, and its answer as bars, marks, spans and colours; nothing becomes markup."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import Any

import pytest


def labels(page: Any, found: list[dict[str, Any]], name: str = "label") -> None:
    """The bars are these labels with their scores."""
    shown = page.bars()
    assert [row[0] for row in shown] == [each[name] for each in found]
    for (_, number, width), each in zip(shown, found, strict=True):
        assert number == pytest.approx(each["score"], abs=1e-4)
        assert width == pytest.approx(each["score"], abs=0.02)


def test_text_classification(page: Any) -> None:
    page.choose("nli")
    page.send()
    [found] = page.answer()
    assert {each["label"] for each in found} == {"entailment", "neutral", "contradiction"}
    labels(page, found)
    page.fill(text_pair="It was nice.", top_k="1", function_to_apply="logits")
    page.send()
    assert json.loads(page.read("request"))["inputs"]["text_pair"] == "It was nice."
    [found] = page.answer()
    assert len(found) == len(page.bars()) == 1
    assert page.complaints() == []


def test_zero_shot_classification(page: Any) -> None:
    page.choose("nli", "zero-shot-classification")
    page.fill(candidate_labels="sport, , art,music", hypothesis_template="It is {}.", multi_label=True)
    page.send()
    assert json.loads(page.read("request"))["parameters"] == {
        "candidate_labels": ["sport", "art", "music"], "hypothesis_template": "It is {}.", "multi_label": True
    }  # fmt: skip
    labels(page, page.answer())
    page.choose("hostile")  # which knows nothing of entailment
    assert page.texts("#tasks label") == ["Classification"]


def test_fill_mask(page: Any) -> None:
    page.choose("masks")
    page.send()
    found = page.answer()
    labels(page, found, "token_str")
    assert page.texts("#answer .passage mark") == [found[0]["token_str"]]
    page.all("#answer .bars button")[2].click()
    assert page.texts("#answer .passage mark") == [found[2]["token_str"]]
    assert page.texts("#answer [aria-pressed='true'] .name") == [found[2]["token_str"]]
    page.fill(text="A [MASK] and [MASK].", top_k="2", targets="cat, dog")
    page.send()
    found = page.answer()
    assert page.texts("#answer .passage mark") == [each[0]["token_str"] for each in found]
    assert {each["token_str"] for one in found for each in one} == {"cat", "dog"}
    assert page.texts("#answer h3") == ["Mask 1", "Mask 2"]
    assert page.complaints() == []


def test_question_answering(page: Any) -> None:
    page.choose("questions")
    page.send()
    assert page.texts("#answer mark") == [page.answer()["answer"]]
    context = "\U0001f600 In Köln \U0001f680 met Ada the old man in the wide sea."
    page.run("const field = document.querySelector('#field-context'); field.value = arguments[0]; "
             "field.dispatchEvent(new Event('input'))", context)  # fmt: skip
    page.fill(top_k="4")
    page.send()
    found = page.answer()
    labels(page, found, "answer")
    for each, button in zip(found, page.all("#answer .bars button"), strict=True):
        button.click()
        assert page.texts("#answer mark") == [each["answer"]] == [context[each["start"] : each["end"]]]
        assert page.texts("#answer .passage") == [context]
    assert page.complaints() == []


@pytest.mark.parametrize("joined", ["of one label", "not at all", "to words, by the average"])
def test_token_classification(page: Any, joined: str) -> None:
    page.choose("entities")
    text = page.one("#field-text").get_property("value")
    page.fill(aggregation_strategy=joined)
    page.send()
    found = page.answer()
    assert found
    script = "return [...document.querySelectorAll('#answer mark')].map(mark => [mark.firstChild.data, mark.className])"
    marks = page.run(script)
    assert [mark[0] for mark in marks] == [text[each["start"] : each["end"]] for each in found]
    kinds = [re.sub("^[BI]-", "", each.get("entity_group") or each["entity"]) for each in found]
    assert len({mark[1] for mark in marks}) == len(set(kinds)) == len(page.all("#answer .legend li"))
    for kind, label in zip(dict.fromkeys(kinds), page.texts("#answer .legend li"), strict=True):
        assert label == f"{kind} ({kinds.count(kind)})"
    tags = page.texts("#answer mark small")
    assert tags[0].split() == [found[0].get("entity_group") or found[0]["entity"], f"{found[0]['score']:.2f}"]
    assert page.complaints() == []


def test_sentence_similarity(page: Any) -> None:
    page.choose("encoder", "sentence-similarity")
    page.send()
    names, cosines, widths = zip(*page.bars(), strict=True)
    assert names == ("A feline rested on a rug.", "Dogs are loyal animals.", "Stock prices fell sharply today.")
    assert (cosines[0], cosines[2]) == pytest.approx((0.5530, 0.0598), abs=2e-4)
    assert widths == pytest.approx(cosines, abs=0.02)
    assert page.complaints() == []


def test_multiple_choice(page: Any) -> None:
    page.choose("choices")
    assert page.texts("#tasks label") == ["Multiple choice"]
    page.fill(prompt="The capital of France is", choices="Paris.\n\n a fish. \nLyon.")
    page.send()
    assert json.loads(page.read("request"))["inputs"] == {
        "prompt": "The capital of France is", "choices": ["Paris.", " a fish. ", "Lyon."]
    }  # fmt: skip
    found = page.answer()
    assert sum(each["score"] for each in found) == pytest.approx(1, abs=1e-5)
    labels(page, found, "choice")
    assert page.complaints() == []


def test_feature_extraction(page: Any) -> None:
    page.choose("encoder", "feature-extraction")
    page.send()
    assert page.texts("#answer .shape") == ["1 × 384 length 1.000"]
    page.fill(pooling="of each token")
    page.send()
    [rows] = answer_of_whole(page)
    assert page.texts("#answer .shape strong") == [f"1 × {len(rows)} × 384"]
    script = """const canvas = document.querySelector('#answer canvas');
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return [canvas.width, canvas.height,
            [...data].filter((_, i) => i % 4 === 0), [...data].filter((_, i) => i % 4 === 3)]"""
    width, height, reds, alphas = page.run(script)
    assert (width, height) == (384, len(rows))
    numbers = [number for row in rows for number in row]
    most = max(range(len(numbers)), key=lambda i: abs(numbers[i]))
    assert alphas[most] == 255
    for i, number in enumerate(numbers):
        if alphas[i] > 64:
            assert (reds[i] > 128) == (number > 0)
    page.fill(pooling="of the text, its first token")
    page.send()
    assert page.texts("#answer .shape strong") == ["1 × 384"]
    assert page.complaints() == []


def answer_of_whole(page: Any) -> Any:
    """An answer that is too long to be shown: asked for again by the address and body that the page shows."""
    assert page.read("answer").endswith(" more characters")
    with urllib.request.urlopen(page.url + "models/encoder", page.read("request").encode()) as response:
        return json.load(response)


HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
HOSTILE_FIELDS = ["text", "text_pair", "candidate_labels", "question", "context", "source_sentence", "sentences",
                  "prompt", "choices"]  # fmt: skip


def unharmed(page: Any, model: str, task: str) -> None:
    """Every field of the task filled with markup, which stays text in all that is shown."""
    page.choose(model, task)
    for name in HOSTILE_FIELDS:
        if page.all(f"#field-{name}"):
            page.fill(**{name: f"[MASK] {HOSTILE}"})
    page.send()
    assert not page.all("#answer [role='alert']")
    for form in ("request", "answer", "curl"):
        page.read(form)
    if task == "token-classification":
        passage = page.run("document.querySelectorAll('#answer small').forEach(tag => tag.remove());"
                           "return document.querySelector('#answer .passage').textContent")  # fmt: skip
        assert passage == f"[MASK] {HOSTILE}"
    assert page.all("main img, script:not([src])") == []
    assert page.browser.title == "distilrt"
    assert page.complaints() == []


def test_texts_are_never_markup(page: Any, case: tuple[str, str]) -> None:
    unharmed(page, *case)


@pytest.mark.parametrize(
    ("model", "task"), [("hostile", "text-classification"), ("hostile/entities", "token-classification")]
)
def test_labels_are_never_markup(page: Any, model: str, task: str) -> None:
    unharmed(page, model, task)
    assert HOSTILE in "".join(page.texts("#answer .name, #answer .legend li"))
