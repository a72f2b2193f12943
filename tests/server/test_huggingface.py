"""Hugging Face's payloads: the forms that InferenceClient sends and reads, with the pipelines' answers in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilrt.runtime.engine import Engine

Engines = Callable[..., Engine]
CLASSIFIER = "DistilBertForSequenceClassification"
TEXT = "Ada Lovelace wrote programs in London."
QUESTION = {"question": "Who wrote?", "context": TEXT}
CHOICES = "DistilBertForMultipleChoice"
HEADS = [CLASSIFIER, "DistilBertForMaskedLM", "DistilBertForQuestionAnswering", "DistilBertForTokenClassification",
         "DistilBertModel", CHOICES]  # fmt: skip


def ask(client: Any, inputs: Any, path: str = "/", **body: Any) -> Any:
    response = client.post(path, json={"inputs": inputs, **body})
    assert response.status_code == 200, response.text
    return response.json()


def test_text_classification(engine_of: Engines, client_of: Any) -> None:
    engine = engine_of(CLASSIFIER)
    client = client_of(engine)
    [[*labels]] = ask(client, TEXT)  # nested, of which InferenceClient takes the first
    assert labels == engine("text-classification", TEXT, top_k=None)
    assert ask(client, [TEXT, "b"]) == engine("text-classification", [TEXT, "b"], top_k=None)
    assert ask(client, [TEXT]) == [labels]
    assert ask(client, {"text": TEXT, "text_pair": "b"}) == [
        engine("text-classification", {"text": TEXT, "text_pair": "b"}, top_k=None)
    ]
    parameters = {"top_k": 2, "function_to_apply": "sigmoid"}
    assert ask(client, TEXT, parameters=parameters) == [engine("text-classification", TEXT, **parameters)]
    assert ask(client, TEXT, options={"wait_for_model": True}, parameters=None) == [labels]
    assert ask(client, []) == []


def test_zero_shot_classification(engine_of: Engines, client_of: Any) -> None:
    engine = engine_of(CLASSIFIER)
    client = client_of(engine)
    parameters = {"candidate_labels": ["sport", "art"], "multi_label": True}
    answer = engine("zero-shot-classification", TEXT, **parameters)
    pairs = [{"label": label, "score": score} for label, score in zip(answer["labels"], answer["scores"], strict=True)]
    assert ask(client, TEXT, parameters=parameters) == pairs
    assert ask(client, [TEXT, TEXT], parameters=parameters) == [pairs, pairs]


@pytest.mark.parametrize(
    ("architecture", "task", "inputs", "parameters"),
    [
        ("DistilBertForMaskedLM", "fill-mask", "[MASK] is.", {"top_k": 2}),
        ("DistilBertForMaskedLM", "fill-mask", ["[MASK] is [MASK].", "[MASK]"], {}),
        ("DistilBertForQuestionAnswering", "question-answering", QUESTION, {}),
        ("DistilBertForQuestionAnswering", "question-answering", [QUESTION, QUESTION], {"top_k": 2}),
        ("DistilBertForTokenClassification", "token-classification", TEXT, {"aggregation_strategy": "simple"}),
        ("DistilBertModel", "feature-extraction", TEXT, {}),
        ("DistilBertModel", "feature-extraction", [TEXT, "b"], {"pooling": "mean"}),
        ("DistilBertModel", "sentence-similarity", {"source_sentence": TEXT, "sentences": ["a", "b"]}, {}),
        (CHOICES, "multiple-choice", {"prompt": TEXT, "choices": ["a", "b c", "d"]}, {}),
        (CHOICES, "multiple-choice", [{"prompt": "a", "choices": [TEXT * 9, "b"]}], {"truncation": True}),
    ],
)
def test_other_tasks(
    engine_of: Engines, client_of: Any, architecture: str, task: str, inputs: Any, parameters: dict[str, Any]
) -> None:
    engine = engine_of(architecture)
    client = client_of(engine)
    assert ask(client, inputs, parameters=parameters) == engine(task, inputs, **parameters)
    assert ask(client, inputs, path=f"/models/{architecture}", parameters=parameters) == engine(
        task, inputs, **parameters
    )


def test_a_sentence_encoder_gives_its_own_vectors(engine_of: Engines, client_of: Any) -> None:
    engine = engine_of("sentence_encoder")
    client = client_of(engine)
    texts = ["The cat sat on the mat.", "A feline rested on a rug."]
    one, other = vectors = ask(client, texts)
    assert vectors == engine("feature-extraction", texts, pooling="mean", normalize=True)
    assert sum(a * b for a, b in zip(one, other, strict=True)) == pytest.approx(0.5530, abs=1e-4)
    assert ask(client, texts[0]) == [one]
    assert ask(client, texts[0], normalize=False) == [one]  # the folder has a Normalize module
    assert ask(client, "a " * 600, truncate=True) == [
        engine("feature-extraction", "a " * 600, pooling="mean", normalize=True, truncation=True)
    ]
    assert ask(client, texts[0], parameters={"pooling": None}) == engine("feature-extraction", texts[0])


def test_parameters_beside_the_inputs(engine_of: Engines, client_of: Any) -> None:
    """Those that InferenceClient sends of feature-extraction; prompts are below."""
    engine = engine_of("sentence_encoder")
    client = client_of(engine)
    asked = {"pooling": "sentence", "normalize": True}
    assert ask(client, [TEXT], dimensions=7) == engine("feature-extraction", [TEXT], dimensions=7, **asked)
    assert ask(client, TEXT, dimensions=7, normalize=False) == [
        engine("feature-extraction", TEXT, dimensions=7, pooling="sentence")
    ]
    long = " ".join(map(str, range(600)))
    cut = {"truncation": True, "truncation_side": "left"}
    for direction in ("left", "Left"):
        found = ask(client, long, truncate=True, truncation_direction=direction)
        assert found == [engine("feature-extraction", long, **asked, **cut)]
    assert found != ask(client, long, truncate=True)
    assert ask(client_of(engine, truncate=True), long, truncation_direction="left") == found
    assert client.post("/", json={"inputs": long, "truncation_direction": "left"}).status_code == 422
    ids = engine.tokenizer(TEXT)["input_ids"]
    assert ask(client, [ids, TEXT]) == engine("feature-extraction", [ids, TEXT], **asked)


def test_texts_in_windows(engine_of: Engines, client_of: Any) -> None:
    """Even where the server cuts texts by default; an answer has no more windows than a text has characters."""
    engine, long = engine_of("DistilBertForSequenceClassification"), "a b " * 400
    client = client_of(engine, truncate=True)
    asked = {"truncation": "windows", "stride": 16, "return_windows": True}
    [found] = ask(client, long, parameters=asked)
    assert found == engine("text-classification", long, top_k=None, **asked)
    assert len(found["windows"]) > 1
    assert found["labels"] != ask(client, long)[0]
    refused = client.post("/", json={"inputs": "a" * 2**20, "parameters": asked})
    assert refused.status_code == 413
    assert "entries" in refused.json()["error"]
    encoder = engine_of("sentence_encoder")
    pooled = {"pooling": "sentence", "normalize": True, "truncation": "windows"}
    assert ask(client_of(encoder), long, parameters={"truncation": "windows"}) == [
        encoder("feature-extraction", long, **pooled)
    ]


def test_prompts(prompted: Engine, client_of: Any) -> None:
    client = client_of(prompted)
    assert ask(client, "cats") == ask(client, "cats", prompt_name="passage") == ask(client, "cats", path="/embed")
    assert ask(client, ["cats"], prompt_name="query") == ask(client, ["cats"], path="/embed", prompt_name="query")
    assert ask(client, "cats", prompt_name="query") == ask(client, "cats", parameters={"prompt": "find: "})
    raw = ask(client, "cats", parameters={"pooling": None}, prompt_name="query")
    assert raw == prompted("feature-extraction", "find: cats")
    item = {"source_sentence": "a", "sentences": ["b"]}
    assert ask(client, item, prompt_name="query") == ask(client, item, path="/similarity",
                                                         parameters={"prompt_name": "query"})  # fmt: skip
    assert ask(client, item) == ask(client, item, path="/similarity")
    for name in ("no", ""):
        response = client.post("/", json={"inputs": "a", "prompt_name": name})
        assert response.status_code == 422
        assert "prompts, which are: query, passage" in response.json()["error"]
    response = client.post("/", json={"inputs": [[5]], "prompt_name": "query"})
    assert response.status_code == 422


def test_answers_that_would_be_too_large(engine_of: Engines, client_of: Any) -> None:
    encoder = client_of(engine_of("DistilBertModel"), max_body_bytes=10**8, max_tokens=2**15, max_inputs=20_000)
    many = ["word " * 40] * 11_000  # each may have 64 tokens of 48 numbers
    response = encoder.post("/", json={"inputs": many[:2000], "truncate": True, "parameters": {"pooling": "mean"}})
    assert response.status_code == 413  # of tokens, as anywhere
    assert "32768" in response.json()["error"]
    response = encoder.post("/", json={"inputs": many, "truncate": True})
    assert response.status_code == 413
    assert "48 for each of up to 704000 tokens" in response.json()["error"]
    masks = client_of(engine_of("DistilBertForMaskedLM"))
    assert len(ask(masks, "[MASK]", parameters={"top_k": 30522})) == 30522
    assert masks.post("/", json={"inputs": ["[MASK]" * 500] * 20}).status_code == 413  # five for each, unasked
    response = masks.post("/", json={"inputs": ["[MASK] [MASK]"], "parameters": {"top_k": 30522}})
    assert response.status_code == 413
    assert "top_k must be at most 16384 for inputs of this number and length, found 30522" in response.json()["error"]
    questions = client_of(engine_of("DistilBertForQuestionAnswering"))
    item = {"question": "a", "context": "b " * 1000}
    assert len(ask(questions, item, parameters={"top_k": 9})) > 1
    response = questions.post("/", json={"inputs": item, "parameters": {"top_k": 10**9, "max_answer_len": 500}})
    assert response.status_code == 413
    assert "top_k must be at most 4096 for" in response.json()["error"]


def test_models_by_name(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of("DistilBertForMaskedLM"), engine_of(CLASSIFIER))
    assert ask(client, "[MASK]", path="/models/DistilBertForMaskedLM") == ask(client, "[MASK]")
    assert ask(client, TEXT, path=f"/models/{CLASSIFIER}")[0][0]["label"]
    response = client.post("/models/no/body", json={"inputs": TEXT})
    assert response.status_code == 404
    assert "there is no model 'no/body' here; there is DistilBertForMaskedLM, " in response.json()["error"]


REFUSED: list[tuple[str, Any, int, str]] = [
    ("broken JSON", b'{"inputs": ', 400, "Malformed"),
    ("nothing", b"", 400, "Malformed"),
    ("no UTF-8", b'{"inputs": "\xff"}', 400, "Malformed"),
    ("half a surrogate pair", b'{"inputs": "\\ud800"}', 400, "Malformed"),
    ("deep", b'{"inputs": ' + b"[" * 10_000 + b"]" * 10_000 + b" " * 50_000 + b"}", 400, "Malformed"),
    ("NaN", b'{"inputs": "a", "parameters": {"top_k": NaN}}', 400, "Malformed"),
    ("no object", b"[1]", 422, "Unprocessable"),
    ("no inputs", b"{}", 422, "Unprocessable"),
    ("more", b'{"inputs": "a", "input": "b"}', 422, "Unprocessable"),
    ("parameters", b'{"inputs": "a", "parameters": 1}', 422, "Unprocessable"),
    ("prompt", b'{"inputs": "a", "prompt_name": "query"}', 422, "Unprocessable"),
    ("dimensions", b'{"inputs": "a", "dimensions": 8}', 422, "InvalidParameter"),
    ("no dimensions", b'{"inputs": "a", "dimensions": 0}', 422, "Unprocessable"),
    ("encoding", b'{"inputs": "a", "encoding_format": "base64"}', 422, "Unprocessable"),
    ("direction", b'{"inputs": "a", "truncation_direction": "up"}', 422, "Unprocessable"),
    ("null", b'{"inputs": null}', 422, "InvalidInput"),
    ("number", b'{"inputs": ["a", 1e38]}', 422, "InvalidInput"),
    ("parameter", b'{"inputs": "a", "parameters": {"topk": 1}}', 422, "InvalidParameter"),
    ("value", b'{"inputs": "a", "parameters": {"top_k": 1e300}}', 422, "InvalidParameter"),
    ("too long", b'{"inputs": "' + b"a " * 600 + b'"}', 422, "TooLong"),
]


@pytest.mark.parametrize(("body", "status", "kind"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refusals(engine_of: Engines, client_of: Any, body: bytes, status: int, kind: str) -> None:
    response = client_of(engine_of(CLASSIFIER)).post("/", content=body)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error", "error_type"]
    assert response.json()["error_type"] == kind


def test_truncating_when_the_server_says_so(engine_of: Engines, client_of: Any) -> None:
    for architecture in ("DistilBertModel", CLASSIFIER):
        client = client_of(engine_of(architecture), truncate=True)
        assert ask(client, "a " * 600) == ask(client, "a " * 600, parameters={"truncation": True})
        assert client.post("/", json={"inputs": "a " * 600, "parameters": {"truncation": False}}).status_code == 422


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["text", "text_pair", "question", "context", "source_sentence", "sentences", "[MASK]", "prompt", "choices"]
CHOSEN = st.fixed_dictionaries({"prompt": JSON | st.text(), "choices": st.lists(st.text(max_size=9) | JSON) | JSON})
INPUTS = JSON | st.dictionaries(st.sampled_from(FIELDS), JSON | st.just("a"), max_size=3) | st.just("[MASK] a") | CHOSEN


@pytest.mark.parametrize("architecture", HEADS)
def test_nothing_that_is_sent_breaks_the_server(engine_of: Engines, client_of: Any, architecture: str) -> None:
    engine = engine_of(architecture)
    client = client_of(engine)
    from distilrt.tasks import TASKS

    names = sorted({name for task in engine.tasks for name in TASKS[task].params} | {"candidate_labels", "nonsense"})
    values = JSON | st.sampled_from([1, 2, True, False, "simple", "max", "none", "mean", ["a", "b"], "longest_first"])

    beside: dict[str, Any] = {
        "normalize": st.booleans() | JSON, "truncate": st.booleans() | JSON, "dimensions": st.integers(-1, 60) | JSON,
        "truncation_direction": st.sampled_from(["left", "Right"]) | JSON, "prompt_name": st.just("query") | JSON,
        "encoding_format": st.just("float") | JSON,
    }  # fmt: skip

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(
        INPUTS | st.lists(INPUTS, max_size=3), st.none() | st.dictionaries(st.sampled_from(names), values, max_size=3),
        st.just({}) | st.fixed_dictionaries({}, optional=beside),
    )  # fmt: skip
    def attempt(inputs: Any, parameters: Any, more: dict[str, Any]) -> None:
        response = client.post("/", json={"inputs": inputs, "parameters": parameters, **more})
        assert response.status_code in (200, 413, 422), response.text
        response.json()

    attempt()


@pytest.mark.parametrize(("architecture", "body"), [
    (CLASSIFIER, '{"inputs": DEEP}'),
    ("DistilBertModel", '{"inputs": {"source_sentence": "a", "sentences": DEEP}}'),
    ("DistilBertModel", '{"inputs": "a", "parameters": {"prompt": DEEP}}'),
    ("DistilBertForTokenClassification", '{"inputs": [["a", DEEP]], "parameters": {"is_split_into_words": true}}'),
    (CHOICES, '{"inputs": {"prompt": "a", "choices": DEEP}}'),
])  # fmt: skip
@pytest.mark.parametrize("deep", [("[", "", "]"), ('{"a":', "1", "}")])
def test_what_is_nested_deeply(
    engine_of: Engines, client_of: Any, architecture: str, body: str, deep: tuple[str, str, str]
) -> None:
    client, (start, middle, end) = client_of(engine_of(architecture)), deep
    for depth in (600, *range(900, 1000, 10)):  # from some depth on it is refused as no JSON
        content = body.replace("DEEP", start * depth + middle + end * depth)
        assert client.post("/", content=content).status_code in (400, 422), depth
