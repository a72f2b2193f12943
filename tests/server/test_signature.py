"""The tensors of each head, and those of multiple choice on the wire; test_open_inference.py has the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilrt.runtime.engine import Engine
from distilrt.server.signature import Signature
from distilrt.server.statuses import Unprocessable

Engines = Callable[..., Engine]
CHOICES = "DistilBertForMultipleChoice"
PROMPTS = ["Ada wrote programs.", "ok"]
ENDINGS = [["in London", "a cat", "b c d"], ["x", "", "why?"]]


def tensor(name: str, values: Any, datatype: str = "BYTES") -> dict[str, Any]:
    return {"name": name, "shape": list(np.shape(values)), "datatype": datatype, "data": values}


def infer(client: Any, *inputs: Any, **body: Any) -> Any:
    return client.post(f"/v2/models/{CHOICES}/infer", json={"inputs": list(inputs), **body})


@pytest.mark.parametrize(
    ("architecture", "rows", "outputs"),
    [
        ("DistilBertModel", "all", {"last_hidden_state": [-1, -1, 48]}),
        ("DistilBertForMaskedLM", "all", {"logits": [-1, -1, 30522]}),
        ("DistilBertForSequenceClassification", "first", {"logits": [-1, 3]}),
        ("DistilBertForTokenClassification", "all", {"logits": [-1, -1, 2]}),
        ("DistilBertForQuestionAnswering", "all", {"start_logits": [-1, -1], "end_logits": [-1, -1]}),
        (CHOICES, "first", {"logits": [-1, -1]}),
    ],
)
def test_every_head(engine_of: Engines, architecture: str, rows: str, outputs: dict[str, list[int]]) -> None:
    """Answers have the shapes that the metadata promises."""
    engine = engine_of(architecture)
    signature = Signature(engine)
    assert signature.rows == rows
    assert {name: dims for name, kind, dims in signature.outputs if kind == "FP32"} == outputs
    assert signature.names == tuple(outputs)
    given: dict[str, Any] = {"text": np.array(PROMPTS, object)}
    if architecture == CHOICES:
        given = {"prompt": np.array(PROMPTS, object), "choices": np.array(ENDINGS, object)}
    asked = signature.asked(given)
    found = signature.arrays(asked, engine("outputs", asked.items, rows=signature.rows))
    for name, dims in outputs.items():
        assert len(found[name].shape) == len(dims)
        assert all(size == known or known < 0 for size, known in zip(found[name].shape, dims, strict=True))
        assert found[name].dtype == np.float32


def test_choices_are_the_models_own_logits(engine_of: Engines, client_of: Any) -> None:
    engine = engine_of(CHOICES)
    client = client_of(engine)
    kinds = {kind["name"]: kind["shape"] for kind in client.get(f"/v2/models/{CHOICES}").json()["inputs"]}
    assert kinds == {"prompt": [-1], "choices": [-1, -1], "input_ids": [-1, -1, -1], "attention_mask": [-1, -1, -1]}
    pairs = [(prompt, choice) for prompt, row in zip(PROMPTS, ENDINGS, strict=True) for choice in row]
    encoded = engine.tokenizer(pairs, padding=True, return_tensors="np")
    ids, mask = (encoded[name].reshape(2, 3, -1) for name in ("input_ids", "attention_mask"))
    wanted = engine.model(ids, mask).logits
    as_text = infer(client, tensor("prompt", PROMPTS), tensor("choices", ENDINGS))
    as_ids = infer(client, tensor("input_ids", ids.tolist(), "INT64"), tensor("attention_mask", mask.tolist(), "INT64"))
    for response in (as_text, as_ids):
        [output] = response.json()["outputs"]
        assert (output["name"], output["shape"]) == ("logits", [2, 3])
        np.testing.assert_allclose(np.reshape(output["data"], (2, 3)), wanted, atol=1e-4)
    column = infer(client, tensor("prompt", [[text] for text in PROMPTS]), tensor("choices", ENDINGS))
    assert column.json()["outputs"] == as_text.json()["outputs"]


REFUSED: list[tuple[list[Any], str]] = [
    (
        [tensor("text", ["a"])],
        "or input_ids, and perhaps attention_mask and token_type_ids; found text",
    ),
    ([tensor("prompt", ["a"])], "must be prompt and choices"),
    ([tensor("prompt", ["a"]), tensor("choices", ["b"])], r"shape \[1, choices\], one row a prompt, found .*\[1\]"),
    ([tensor("prompt", ["a"]), tensor("choices", [["b"], ["c"]])], r"one row a prompt, found the shape \[2, 1\]"),
    ([tensor("prompt", ["a"]), tensor("choices", [[]])], "one row a prompt"),
    ([tensor("prompt", ["a"]), tensor("choices", [[1]], "INT64")], "datatype BYTES"),
    ([tensor("prompt", []), tensor("choices", [[]])], "prompt must have the datatype BYTES and at least one string"),
    ([tensor("input_ids", [[101, 102]], "INT64")], r"of shape \[n, choices, length\], found the shape \[1, 2\]"),
    ([tensor("input_ids", [[[101], [102]]], "INT64"), tensor("attention_mask", [[[1], [0]]], "INT64")], "each row of"),
]


@pytest.mark.parametrize(("inputs", "message"), REFUSED, ids=[case[1] for case in REFUSED])
def test_refusals(engine_of: Engines, client_of: Any, inputs: Any, message: str) -> None:
    response = infer(client_of(engine_of(CHOICES)), *inputs)
    assert response.status_code == 422
    assert re.search(message, response.json()["error"])


def test_a_bad_tensor_alone(engine_of: Engines) -> None:
    with pytest.raises(Unprocessable, match=r"text, and perhaps text_pair, or input_ids, .* found prompt"):
        Signature(engine_of("DistilBertModel")).asked({"prompt": np.array(["a"], object)})


def test_every_choice_counts(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(CHOICES), max_inputs=5)
    assert infer(client, tensor("prompt", PROMPTS), tensor("choices", ENDINGS)).status_code == 413


def test_nothing_that_is_sent_breaks_the_server(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(CHOICES))
    values = st.integers(-1, 200) | st.text(max_size=3)
    made = st.builds(
        lambda name, shape, datatype, data: {"name": name, "shape": shape, "datatype": datatype, "data": data},
        st.sampled_from(["prompt", "choices", "text", "input_ids", "attention_mask"]),
        st.lists(st.integers(0, 2), max_size=3),
        st.sampled_from(["BYTES", "INT64"]),
        st.lists(values | st.lists(values, max_size=2), max_size=4),
    )

    @settings(max_examples=100, suppress_health_check=list(HealthCheck))
    @given(st.lists(made, max_size=2))
    def attempt(inputs: Any) -> None:
        assert infer(client, *inputs).status_code in (200, 422)

    attempt()
