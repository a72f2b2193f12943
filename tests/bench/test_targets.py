"""engine/bench/targets.py: engines, peers and servers give the same answers to the same texts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distilrt.bench import answers, samples, targets
from distilrt.bench.load import TargetError
from distilrt.bench.samples import Samples
from distilrt.bench.targets import Spec


def ask(spec: Spec, given: Samples, indices: list[int], *, together: bool = False) -> list[answers.Answer]:
    async def go() -> list[answers.Answer]:
        target = targets.create(spec)
        await target.prepare(given)
        if together:
            raws = await target.answer_all(indices)
        else:
            raws = [raw for i in indices for raw in await target.answer([i])]
        decode: Any = getattr(target, "decode", lambda raw: raw)
        await target.close()
        return [answers.parse(decode(raw)) for raw in raws]

    return asyncio.run(go())


def test_engines_agree(classifier: str, queries: Samples) -> None:
    indices = [5, 0, 3, 9]
    exact = ask(Spec("distilrt", "float32", classifier, backend="reference"), queries, indices)
    for name in ("distilrt", "transformers"):
        for together in (False, True):
            found = ask(Spec(name, "float32", classifier, threads=1), queries, indices, together=together)
            assert answers.compare(found, exact, "float32").max_difference < 1e-5
            assert answers.compare(found, exact, "float32").agreement == 1


@pytest.mark.parametrize("architecture", [
    "DistilBertModel", "DistilBertForTokenClassification", "DistilBertForQuestionAnswering", "DistilBertForMaskedLM",
])  # fmt: skip
def test_every_head(folder_of: Callable[..., Path], architecture: str) -> None:
    folder = str(folder_of(architecture))
    given = samples.make("queries", folder)
    exact = ask(Spec("distilrt", "float32", folder, backend="reference"), given, [0, 1, 2])
    found = ask(Spec("distilrt", "float32", folder, threads=1), given, [0, 1, 2], together=True)
    assert answers.compare(found, exact, "float32").max_difference < 1e-4


def test_server(server: Any, classifier: str, queries: Samples) -> None:
    def reply(path: str, body: Any) -> tuple[int, Any]:
        count = len(body["inputs"]) if body else 0
        return 200, [[{"label": "LABEL_1", "score": count}, {"label": "LABEL_0", "score": 0.0}]]

    server.reply = reply
    found = ask(Spec(server.url, "auto", classifier), queries, [2, 0, 1], together=True)
    assert [each.numbers.tolist() for each in found] == [[0.0, float(len(queries.inputs[i]))] for i in (2, 0, 1)]
    assert len(server.requests) == 4
    several = Spec(server.url, "auto", classifier, wire="tei")

    async def batch() -> Any:
        target = targets.create(several)
        await target.prepare(queries)
        await target.answer([0, 1])
        await target.close()

    asyncio.run(batch())
    assert server.requests[-1] == ("/predict", {"inputs": [[queries.inputs[0]], [queries.inputs[1]]],
                                                "truncate": True, "raw_scores": True})  # fmt: skip


def test_server_of_another_task(server: Any, classifier: str, queries: Samples) -> None:
    with pytest.raises(ValueError, match="openai is measured for feature-extraction"):
        ask(Spec(server.url, "auto", classifier, wire="openai"), queries, [0])
    with pytest.raises(TargetError, match="Connection refused"):
        ask(Spec("http://127.0.0.1:1", "auto", classifier), queries, [0])


def test_parse() -> None:
    assert targets.parse("distilrt", "int8") == ("distilrt", "int8")
    assert targets.parse("distilrt:float32", "int8") == ("distilrt", "float32")
    assert targets.parse("onnxruntime", "auto") == ("onnxruntime", "float32")
    assert targets.parse("http://a:1/b", "auto") == ("http://a:1/b", "auto")
    assert Spec("http://a:1/b/", "auto", "m", wire="tei").label == "a:1/b tei"


@pytest.mark.parametrize(("text", "words"), [
    ("nope", "a target is distilrt"), ("distilrt-all-rows", "a target is"), ("distilrt:int3", "a dtype is one of"),
    ("onnxruntime:bfloat16", "onnxruntime is compared in"), ("https://a", "a server's URL is"), ("http://", "URL"),
])  # fmt: skip
def test_wrong_targets(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        targets.parse(text, "auto")


def test_missing_peer(classifier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> None:
        raise ModuleNotFoundError("No module named 'x'")

    monkeypatch.setattr("distilrt.bench.peers.Transformers.load", load)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'distilrt\[bench\]'"):
        targets.create(Spec("transformers", "float32", classifier))
