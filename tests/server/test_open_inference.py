"""The Open Inference Protocol on the wire; tests/server/test_clients.py has Triton's own client ask."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import distilrt
from distilrt.runtime.engine import Engine

Engines = Callable[..., Engine]
CLASSIFIER, MASKS, ENCODER = "DistilBertForSequenceClassification", "DistilBertForMaskedLM", "DistilBertModel"
TEXT = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["Ada wrote.", "ok"]}


def infer(client: Any, model: str, *inputs: Any, **body: Any) -> Any:
    return client.post(f"/v2/models/{model}/infer", json={"inputs": list(inputs), **body})


def ids_of(rows: list[list[int]], name: str = "input_ids") -> dict[str, Any]:
    return {"name": name, "shape": [len(rows), len(rows[0])], "datatype": "INT64", "data": rows}


def test_server_and_models(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(CLASSIFIER), engine_of("DistilBertForQuestionAnswering"))
    assert client.get("/v2").json() == {
        "name": "distilrt", "version": distilrt.__version__, "extensions": ["binary_tensor_data"]
    }  # fmt: skip
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for path in ("", "/versions/1"):
        found = client.get(f"/v2/models/{CLASSIFIER}{path}").json()
        assert found["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]
        assert client.get(f"/v2/models/{CLASSIFIER}{path}/ready").json() == {"name": CLASSIFIER, "ready": True}
    found = client.get("/v2/models/DistilBertForQuestionAnswering").json()
    assert [output["name"] for output in found["outputs"]] == ["start_logits", "end_logits"]
    assert found["outputs"][0]["shape"] == [-1, -1]
    for path in ("/v2/models/x", "/v2/models/x/ready", f"/v2/models/{CLASSIFIER}/versions/2"):
        response = client.get(path)
        assert response.status_code == 404
        assert list(response.json()) == ["error"]
    client.app.state.serving.draining = True
    response = client.get("/v2/health/ready")
    assert (response.status_code, response.json()) == (503, {"ready": False})
    assert client.get("/v2/health/live").status_code == 200


def test_json_answers(engine_of: Engines, client_of: Any) -> None:
    engine = engine_of(CLASSIFIER)
    client = client_of(engine)
    found = infer(client, CLASSIFIER, TEXT, id="x").json()
    encoded = engine.tokenizer(TEXT["data"], padding=True, return_tensors="np")
    logits = engine.model(encoded["input_ids"], encoded["attention_mask"]).logits
    [output] = found.pop("outputs")
    assert found == {"model_name": CLASSIFIER, "model_version": "1", "id": "x"}
    assert (output["name"], output["shape"], output["datatype"]) == ("logits", [2, 3], "FP32")
    np.testing.assert_allclose(output["data"], logits.reshape(-1), atol=1e-4)
    same = client.post(f"/v2/models/{CLASSIFIER}/versions/1/infer", json={"inputs": [TEXT]})
    assert same.json()["outputs"] == [output]
    assert "x-inference-time-us" in same.headers
    ids = [ids_of(encoded[name].tolist(), name) for name in ("input_ids", "attention_mask")]
    [other] = infer(client, CLASSIFIER, *ids).json()["outputs"]
    np.testing.assert_allclose(other["data"], output["data"], atol=1e-5)


def test_one_output_in_binary_and_one_in_json(engine_of: Engines, client_of: Any) -> None:
    name = "DistilBertForQuestionAnswering"
    client = client_of(engine_of(name))
    whole = {output["name"]: output["data"] for output in infer(client, name, TEXT).json()["outputs"]}
    wanted = [{"name": "end_logits", "parameters": {"binary_data": True}}, {"name": "start_logits"}]
    response = infer(client, name, TEXT, outputs=wanted)
    size = int(response.headers["inference-header-content-length"])
    assert response.headers["content-type"] == "application/octet-stream"
    end, start = json.loads(response.content[:size])["outputs"]
    assert end["parameters"] == {"binary_data_size": len(response.content) - size}
    np.testing.assert_array_equal(np.frombuffer(response.content[size:], "<f4"), np.float32(whole["end_logits"]))
    assert start["data"] == whole["start_logits"]


def test_what_is_padded_is_zero(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(ENCODER))
    rows = [[101, 7592, 102, 0, 0], [101, 7592, 2088, 102, 0]]
    mask = [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    [output] = infer(client, ENCODER, ids_of(rows), ids_of(mask, "attention_mask")).json()["outputs"]
    found = np.reshape(output["data"], output["shape"])
    np.testing.assert_array_equal(found.any(axis=2), np.array(mask, bool))
    [alone] = infer(client, ENCODER, ids_of([rows[0][:3]])).json()["outputs"]
    np.testing.assert_allclose(found[0, :3].reshape(-1), alone["data"], atol=1e-5)


def test_truncation(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(ENCODER))
    long = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a " * 99]}
    assert infer(client, ENCODER, long).status_code == 422
    found = infer(client, ENCODER, long, parameters={"truncation": True}).json()["outputs"]
    assert found[0]["shape"] == [1, 64, 48]
    assert infer(client_of(engine_of(ENCODER), truncate=True), ENCODER, long).json()["outputs"] == found


IDS = ids_of([[101, 102]])
REFUSED: list[tuple[list[Any], dict[str, Any], int, str]] = [
    ([], {}, 422, "found none"),
    ([TEXT, IDS], {}, 422, "the inputs must be text"),
    ([TEXT, TEXT], {}, 422, "two inputs have one name"),
    ([{**TEXT, "name": "prompt"}], {}, 422, "found prompt"),
    ([{**TEXT, "shape": [1, 2]}], {}, 422, "shape [n] or [n, 1], found [1, 2]"),
    ([{**TEXT, "shape": [0], "data": []}], {}, 422, "at least one string"),
    ([{**TEXT, "datatype": "INT64", "data": [1, 2]}], {}, 422, "must have the datatype BYTES"),
    ([TEXT, {**TEXT, "name": "text_pair", "shape": [1], "data": ["a"]}], {}, 422, "text has 2 strings"),
    ([{**IDS, "shape": [2]}], {}, 422, "of shape [n, length]"),
    ([{**IDS, "shape": [1, 0], "data": []}], {}, 422, "of shape [n, length]"),
    ([IDS, ids_of([[1]], "attention_mask")], {}, 422, "of input_ids' shape [1, 2], found [1, 1]"),
    ([IDS, ids_of([[0, 1]], "attention_mask")], {}, 422, "ones, at least one, and then zeros"),
    ([IDS, ids_of([[0, 0]], "attention_mask")], {}, 422, "ones, at least one, and then zeros"),
    ([IDS, ids_of([[2, 0]], "attention_mask")], {}, 422, "ones, at least one, and then zeros"),
    ([ids_of([[101, 30522]])], {}, 422, "token 30522"),
    ([ids_of([[101, -1]])], {}, 422, "none below 0"),
    ([TEXT], {"outputs": [{"name": "x"}]}, 422, "the model has the outputs logits, found 'x'"),
    (
        [TEXT],
        {"outputs": [{"name": "logits", "parameters": {"classification": 2}}]},
        422,
        "unknown field `classification`",
    ),
    ([TEXT], {"parameters": {"sequence_id": 1}}, 422, "unknown field `sequence_id`"),
    ([TEXT], {"parameters": {"priority": 22}}, 422, "Expected `int` <= 21 - at `$.parameters.priority`"),
    ([TEXT], {"parameters": {"timeout": 0.5}}, 422, "Expected `int`, got `float` - at `$.parameters.timeout`"),
    ([TEXT], {"id": "x" * 2000}, 422, "length <= 1024"),
    ([IDS, ids_of([[0]], "token_type_ids")], {}, 422, "token_type_ids must be INT64 of input_ids' shape"),
    ([{**IDS, "shape": [1] * 9}], {}, 422, "length <= 8"),
    ([{**IDS, "data": [[[1, 2, 3]]]}], {}, 422, "found 3"),
    (
        [TEXT],
        {"parameters": {"truncation": 1}},
        422,
        "Expected `bool | null`, got `int` - at `$.parameters.truncation`",
    ),
    ([{**TEXT, "shape": [9], "data": ["a"] * 9}], {}, 413, "9 texts, at most 8"),
]


@pytest.mark.parametrize(("inputs", "body", "status", "message"), REFUSED, ids=[case[3] for case in REFUSED])
def test_refusals(engine_of: Engines, client_of: Any, inputs: Any, body: Any, status: int, message: str) -> None:
    response = infer(client_of(engine_of(CLASSIFIER), max_inputs=8), CLASSIFIER, *inputs, **body)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]


def test_answers_that_would_be_too_large(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(MASKS))
    many = ids_of([[101] * 64] * 30)
    binary = {"parameters": {"binary_data_output": True}}
    assert infer(client, MASKS, many).status_code == 413
    assert infer(client, MASKS, ids_of([[101] * 64] * 40), **binary).status_code == 413
    # Padding counts too.
    mask = ids_of([[1] + [0] * 4999] * 8, "attention_mask")
    assert infer(client, MASKS, ids_of([[101] * 5000] * 8), mask, **binary).status_code == 413


def test_token_type_ids_have_no_effect(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(ENCODER))
    rows = [[101, 7592, 102]]
    with_types = infer(client, ENCODER, ids_of(rows), ids_of([[0, 1, 1]], "token_type_ids"))
    assert with_types.json() == infer(client, ENCODER, ids_of(rows)).json()


def test_priority_and_timeout(engine_of: Engines, folder_of: Callable[..., Any], client_of: Any) -> None:
    """As Triton's client sends them: a level, and microseconds."""
    assert infer(client_of(engine_of(CLASSIFIER)), CLASSIFIER, TEXT, parameters={"priority": 1}).status_code == 200
    with Engine(folder_of(CLASSIFIER), name="slow", max_delay=0.2) as engine:
        client = client_of(engine)
        assert infer(client, "slow", TEXT, parameters={"timeout": 1000}).status_code == 504
        assert infer(client, "slow", TEXT, parameters={"timeout": 60_000_000}).status_code == 200


def test_many_dimensions_and_nested_data_cost_little(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(CLASSIFIER))
    for shape, data in (([2**31 - 1] * 180_000, [1]), ([1, 1], [[[[[[[5]]]]]]] * 100_000), ([1, 1], [5] * 900_000)):
        start = time.perf_counter()
        response = infer(client, CLASSIFIER, {**IDS, "shape": shape, "data": data})
        assert response.status_code in (413, 422)
        assert len(response.content) < 4000
        assert time.perf_counter() - start < 5  # it was 36


@pytest.mark.parametrize("length", ["9" * 5000, "", "x", "-1", "999", "1.0"])
def test_broken_lengths(engine_of: Engines, client_of: Any, length: str) -> None:
    body = json.dumps({"inputs": [TEXT]})
    headers = {"inference-header-content-length": length}
    response = client_of(engine_of(CLASSIFIER)).post(f"/v2/models/{CLASSIFIER}/infer", content=body, headers=headers)
    assert response.status_code == 400
    assert "inference-header-content-length must be an integer" in response.json()["error"]


def test_nothing_that_is_sent_breaks_the_server(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(CLASSIFIER))
    values = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=3)
    tensor = st.fixed_dictionaries(
        {
            "name": st.sampled_from(["text", "text_pair", "input_ids", "attention_mask"]),
            "shape": st.lists(st.integers(0, 3), max_size=3) | values,
            "datatype": st.sampled_from(["BYTES", "INT64", "INT32", "FP32"]),
        },
        optional={
            "data": st.lists(values, max_size=3) | values,
            "parameters": st.dictionaries(st.just("binary_data_size"), values) | values,
        },
    )

    @settings(max_examples=200, suppress_health_check=list(HealthCheck))
    @given(st.lists(tensor, max_size=2), st.binary(max_size=12), st.integers(-1, 12))
    def attempt(inputs: Any, rest: bytes, cut: int) -> None:
        body = json.dumps({"inputs": inputs}).encode()
        headers = {"inference-header-content-length": str(len(body) if cut < 0 else cut)} if rest else {}
        response = client.post(f"/v2/models/{CLASSIFIER}/infer", content=body + rest, headers=headers)
        assert response.status_code in (200, 400, 422), response.text

    attempt()
