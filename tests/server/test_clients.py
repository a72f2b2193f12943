"""Real clients against a real server: what they send is understood, and they understand what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import tritonclient.http as triton
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

import distilrt
from distilrt.model import models
from distilrt.text.tokenizer import DistilBertTokenizer

TEXT = "Ada Lovelace wrote programs in London."
TEXTS = [TEXT, "The cat sat on the mat.", "ok"]
ARCHITECTURES = {
    "classifier": "DistilBertForSequenceClassification", "masks": "DistilBertForMaskedLM",
    "answers": "DistilBertForQuestionAnswering", "tokens": "DistilBertForTokenClassification",
}  # fmt: skip


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> Callable[..., Any]:
    """What `distilrt.pipeline` answers."""

    def ask(task: str, name: str, inputs: Any, **params: Any) -> Any:
        return distilrt.pipeline(task, model=folders[name], num_threads=1)(inputs, **params)

    return ask


@pytest.fixture
def hub(address: str) -> Callable[[str], InferenceClient]:
    """A client of the Hugging Face hub's for a model by name."""
    return lambda name: InferenceClient(model=f"http://{address}/models/{name}")


def assert_close(found: Any, wanted: Any) -> None:
    """Equal, but for numbers' last digits."""
    if isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-5)
    elif isinstance(wanted, dict):
        for key, value in wanted.items():
            assert_close(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_close(one, other)
    else:
        assert found == wanted


def test_hub_text_classification(hub: Any, expected: Any) -> None:
    wanted = expected("text-classification", "classifier", TEXT, top_k=None)
    assert_close(hub("classifier").text_classification(TEXT), wanted)
    one = hub("classifier").text_classification(TEXT, top_k=1, function_to_apply="sigmoid")
    assert_close(one, expected("text-classification", "classifier", TEXT, top_k=1, function_to_apply="sigmoid"))


def test_hub_fill_mask(hub: Any, expected: Any) -> None:
    text = "Paris is the [MASK] of France."
    assert_close(hub("masks").fill_mask(text), expected("fill-mask", "masks", text))
    few = hub("masks").fill_mask(text, top_k=2, targets=["capital", "end", "sea"])
    assert_close(few, expected("fill-mask", "masks", text, top_k=2, targets=["capital", "end", "sea"]))


def test_hub_question_answering(hub: Any, expected: Any) -> None:
    question = {"question": "Who wrote programs?", "context": TEXT}
    found = hub("answers").question_answering(**question, top_k=1)
    assert_close(found, expected("question-answering", "answers", question))
    several = hub("answers").question_answering(**question, top_k=3, max_answer_len=4)
    assert_close(several, expected("question-answering", "answers", question, top_k=3, max_answer_len=4))


def test_hub_token_classification(hub: Any, expected: Any) -> None:
    found = hub("tokens").token_classification(TEXT, aggregation_strategy="simple")
    wanted = expected("token-classification", "tokens", TEXT, aggregation_strategy="simple")
    assert_close(found, wanted)
    assert_close(hub("tokens").token_classification(TEXT), expected("token-classification", "tokens", TEXT))


def test_hub_zero_shot_classification(hub: Any, expected: Any) -> None:
    found = hub("classifier").zero_shot_classification(TEXT, ["sport", "art"], hypothesis_template="It is {}.")
    wanted = expected("zero-shot-classification", "classifier", TEXT, candidate_labels=["sport", "art"],
                      hypothesis_template="It is {}.")  # fmt: skip
    assert [item.label for item in found] == wanted["labels"]
    assert_close([item.score for item in found], wanted["scores"])


def test_hub_embeddings(hub: Any, expected: Any) -> None:
    wanted = expected("feature-extraction", "org/encoder", TEXTS, pooling="mean", normalize=True)
    client = hub("org/encoder")
    np.testing.assert_allclose(client.feature_extraction(TEXTS), wanted, atol=1e-6)
    np.testing.assert_allclose(client.feature_extraction(TEXT), wanted[:1], atol=1e-6)
    long = client.feature_extraction("a " * 600, truncate=True, truncation_direction="right")
    cut = expected("feature-extraction", "org/encoder", "a " * 600, pooling="mean", normalize=True, truncation=True)
    np.testing.assert_allclose(long, [cut], atol=1e-6)
    short = client.feature_extraction("a b " * 300, dimensions=16, truncate=True, truncation_direction="left")
    wanted = expected("feature-extraction", "org/encoder", "a b " * 300, pooling="mean", normalize=True, dimensions=16,
                      truncation=True, truncation_side="left")  # fmt: skip
    np.testing.assert_allclose(short, [wanted], atol=1e-6)
    with pytest.raises(HfHubHTTPError, match="422"):
        client.feature_extraction(TEXT, prompt_name="query")  # this checkpoint has none
    similar = client.sentence_similarity(TEXT, TEXTS[1:])
    assert_close(
        similar,
        expected("sentence-similarity", "org/encoder", {"source_sentence": TEXT, "sentences": TEXTS[1:]}),
    )


def test_hub_health_info_and_errors(address: str, hub: Any) -> None:
    client = InferenceClient(model=f"http://{address}", provider="hf-inference")
    assert client.health_check()
    info = client.get_endpoint_info()
    assert (info["model_id"], info["max_input_length"]) == ("org/encoder", 256)
    with pytest.raises(HfHubHTTPError, match="422"):
        hub("masks").fill_mask("no mask")
    with pytest.raises(HfHubHTTPError, match="404"):
        hub("nobody").fill_mask("[MASK]")


def test_openai_embeddings(address: str, folders: dict[str, Path], expected: Any) -> None:
    client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == list(folders)
    assert client.models.retrieve("org/encoder").id == "org/encoder"
    wanted = expected("feature-extraction", "org/encoder", TEXTS, pooling="mean", normalize=True)
    found = client.embeddings.create(model="org/encoder", input=TEXTS)  # asks for base64
    np.testing.assert_allclose([item.embedding for item in found.data], wanted, atol=1e-6)
    tokenizer = DistilBertTokenizer.from_pretrained(folders["org/encoder"])
    ids = tokenizer(TEXTS)["input_ids"]
    assert found.usage.prompt_tokens == found.usage.total_tokens == sum(map(len, ids))
    for inputs, rows in ((ids, wanted), (ids[0], wanted[:1]), (TEXT, wanted[:1])):
        found = client.embeddings.create(model="org/encoder", input=inputs, encoding_format="float")
        np.testing.assert_allclose([item.embedding for item in found.data], rows, atol=1e-6)
    short = client.embeddings.create(model="org/encoder", input=TEXT, dimensions=16)
    head = np.array(wanted[0][:16])
    np.testing.assert_allclose(short.data[0].embedding, head / np.linalg.norm(head), atol=1e-6)


@pytest.mark.whole
def test_many_openai_requests_at_once(address: str) -> None:
    """With the package's own retries and the server's defaults, none is lost."""

    async def main() -> list[int]:
        async with openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none") as client:
            ask = partial(client.embeddings.create, model="org/encoder", input=["word " * 120] * 8)
            return [len(answer.data) for answer in await asyncio.gather(*(ask() for _ in range(64)))]

    assert asyncio.run(main()) == [8] * 64


def test_openai_errors(address: str) -> None:
    client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError, match="there is no model 'text-embedding-3-small' here"):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    with pytest.raises(
        openai.UnprocessableEntityError, match="has token 100257, this model knows 0 to 30521"
    ) as caught:
        client.embeddings.create(model="org/encoder", input=[[9906, 100257]])  # of another tokenizer
    assert (caught.value.type, caught.value.code) == ("invalid_request_error", "InvalidInput")
    with pytest.raises(openai.APIStatusError, match="masks makes no embeddings, it serves fill-mask"):
        client.embeddings.create(model="masks", input="a")


@pytest.fixture
def oip(address: str) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(address)
    yield client
    client.close()


def tensor(name: str, values: Any, kind: str, binary: bool = True) -> Any:
    array = np.array(values, object if kind == "BYTES" else np.int64)
    made = triton.InferInput(name, array.shape, kind)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def test_triton_health_and_metadata(oip: Any) -> None:
    assert oip.is_server_live()
    assert oip.is_server_ready()
    assert oip.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert oip.is_model_ready("org/encoder", "1")
    assert not oip.is_model_ready("org/encoder", "2")
    found = oip.get_model_metadata("masks")
    assert found["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, -1, 30522]}]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", ["org/encoder", *ARCHITECTURES])
def test_triton_infer(oip: Any, folders: dict[str, Path], name: str, binary: bool) -> None:
    """Texts and ids give the model's own outputs, but for what is padded and what a BERT's pooler adds."""
    architecture = ARCHITECTURES.get(name, "DistilBertModel")
    model = getattr(models, architecture).from_pretrained(folders[name], num_threads=1)
    encoded = DistilBertTokenizer.from_pretrained(folders[name])(TEXTS, padding=True, return_tensors="np")
    outputs = dict(model(encoded["input_ids"], encoded["attention_mask"]))
    outputs.pop("pooler_output", None)
    ids = [tensor(key, encoded[key], "INT64", binary) for key in ("input_ids", "attention_mask")]
    wanted = None if binary else [triton.InferRequestedOutput(key, binary_data=False) for key in outputs]
    for inputs in ([tensor("text", TEXTS, "BYTES", binary)], ids):
        found = oip.infer(name, inputs, outputs=wanted, request_id="7")
        assert found.get_response()["id"] == "7"
        for key, value in outputs.items():
            values = found.as_numpy(key)
            assert values.dtype == np.float32
            mask = encoded["attention_mask"] if value.shape[:2] == encoded["input_ids"].shape else np.ones(len(TEXTS))
            mask = mask.reshape(mask.shape + (1,) * (value.ndim - mask.ndim))
            np.testing.assert_allclose(values, value * mask, atol=1e-4)


def test_triton_pairs_and_errors(oip: Any, folders: dict[str, Path]) -> None:
    inputs = [tensor("text", [TEXT], "BYTES"), tensor("text_pair", ["ok"], "BYTES")]
    found = oip.infer("classifier", inputs).as_numpy("logits")
    model = models.DistilBertForSequenceClassification.from_pretrained(folders["classifier"], num_threads=1)
    encoded = DistilBertTokenizer.from_pretrained(folders["classifier"])(TEXT, "ok", return_tensors="np")
    np.testing.assert_allclose(found, model(encoded["input_ids"])["logits"], atol=1e-4)
    with pytest.raises(triton.InferenceServerException, match="there is no model 'nobody' here"):
        oip.infer("nobody", inputs)
    with pytest.raises(triton.InferenceServerException, match="the inputs must be text"):
        oip.infer("classifier", inputs[1:])
