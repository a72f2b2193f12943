"""engine/bench/targets.py: engines, peers and servers give the same answers to the same texts."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilrt.bench import answers, artefacts, peers, samples, scenarios, targets
from distilrt.bench.load import TargetError
from distilrt.bench.samples import Samples
from distilrt.bench.targets import Spec
from distilrt.errors import DistilrtError


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
    for together in (False, True):
        found = ask(Spec("distilrt", "float32", classifier, threads=1), queries, indices, together=together)
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
    before = len(server.requests)
    ask(Spec(f"{server.url}/a,{server.url}/b", "auto", classifier), queries, [0, 1, 2, 3])
    assert [path for path, body in server.requests[before:] if body] == ["/a", "/b", "/a", "/b"]


def test_statuses_and_hang_ups_are_failures_and_the_next_request_works(
    server: Any, classifier: str, queries: Samples
) -> None:
    async def go() -> list[str]:
        target, said = targets.create(Spec(server.url, "auto", classifier, key="secret")), []
        await target.prepare(queries)
        for status in (429, 0, 307, 503, 200):
            server.reply = lambda path, body, status=status: (status, {"error": "x"})
            try:
                said.append((await target.answer([0]))[0].decode())
            except TargetError as error:
                said.append(str(error))
        await target.close()
        assert target.version == "tiny"
        return said

    assert asyncio.run(go()) == ["HTTP 429", "connection lost", "HTTP 307", "HTTP 503", '{"error": "x"}']
    assert "Authorization: Bearer secret" in server.heads[0]


def test_a_text_without_an_answer_ends_the_others(server: Any, classifier: str, queries: Samples) -> None:
    async def go() -> None:
        target = targets.create(Spec(server.url, "auto", classifier, in_flight=2))
        await target.prepare(queries)
        server.reply = lambda path, body: (503 if body["inputs"] == queries.inputs[3] else 200, None)
        with pytest.raises(TargetError):
            await target.answer_all(range(len(queries.inputs)))
        await asyncio.sleep(0.3)
        assert len(server.requests) <= 7  # the first, five, and what was on its way
        await target.close()

    asyncio.run(go())


def test_server_of_another_task(server: Any, classifier: str, queries: Samples) -> None:
    with pytest.raises(ValueError, match="openai is measured for feature-extraction"):
        ask(Spec(server.url, "auto", classifier, wire="openai"), queries, [0])
    with pytest.raises(TargetError, match="Connection refused"):
        ask(Spec("http://127.0.0.1:1", "auto", classifier), queries, [0])


def test_parse() -> None:
    assert targets.parse("distilrt", "int8") == ("distilrt", "int8")
    assert targets.parse("distilrt:float32", "int8") == ("distilrt", "float32")
    assert targets.parse("http://a:1/b", "auto") == ("http://a:1/b", "auto")
    assert Spec("http://a:1/b/,http://a:2", "auto", "m", wire="openai").label == "a:1/b,a:2 openai"
    assert Spec("openvino", "int8", "m", form="static").named == "openvino static int8"


@pytest.mark.parametrize(("text", "words"), [
    ("openvino", "a target is distilrt"), ("distilrt:int3", "a dtype is one of"),
    ("https://a", "a server's URL is"), ("http://", "URL"), ("http://a,b", "found 'b'"),
])  # fmt: skip
def test_wrong_targets(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        targets.parse(text, "auto")


@pytest.mark.parametrize(("form", "suited"), [("static", [True, False, False, False]),
                                              ("dynamic", [True, True, False, False]),
                                              ("streams", [False, False, True, True])])  # fmt: skip
def test_forms_that_suit(form: str, suited: list[bool]) -> None:
    """One shape and a mix of lengths, batch after batch and all at once."""
    spec = Spec("openvino", "float32", "m", form=form)
    given = [Samples("", samples.IDS, {}, ("a", "b"), lengths, 2) for lengths in ((4, 4), (4, 6))]
    assert [spec.suits(each, many) for many in (False, True) for each in given] == suited


def test_missing_peer(classifier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> None:
        raise ModuleNotFoundError("No module named 'x'")

    monkeypatch.setattr("distilrt.bench.peers.Transformers.load", load)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'distilrt\[bench-peers\]'"):
        targets.create(Spec("transformers", "float32", classifier, form="sdpa"))


@pytest.fixture
def as_it_was() -> Iterator[None]:
    """Peers set what is global in torch, since in a bench each has a process of its own."""
    import torch
    import torch._inductor.config

    threads, settings = torch.get_num_threads(), torch._inductor.config.save_config_portable()
    yield
    torch.set_num_threads(threads)
    torch._inductor.config.load_config(settings)
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def trained(sentence_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A classifier whose encoder was trained."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("trained")))
        yield artefacts.classifier_of(str(sentence_encoder))


@pytest.fixture(scope="module")
def untrained(folder_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with random weights, to whose folder peers may add."""
    return shutil.copytree(folder_of("DistilBertForSequenceClassification"), tmp_path_factory.mktemp("any") / "model")


@pytest.mark.whole
@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize(("name", "form", "dtype"), [
    (name, form, dtype) for name, of_it in peers.ENGINES.items() for form, each in of_it.items()
    for dtype in each.dtypes
])  # fmt: skip
def test_every_form_answers_as_float32(untrained: Path, trained: Path, name: str, form: str, dtype: str) -> None:
    """On token ids of one length and of many, in one batch and all at once; int8 on trained weights and on English,
    since random ones leave a quantizer nothing to work with."""
    folder = trained if dtype == "int8" else untrained
    peer, exact = peers.create(name, form, dtype), peers.create("distilrt", "reference", "float32")
    exact.load(folder, 1)
    try:
        scenarios.convert(Spec(name, dtype, str(folder), form=form))
        peer.load(folder, 2)
    except (RuntimeError, ModuleNotFoundError, DistilrtError) as error:
        pytest.skip(str(error))
    for workload, count in (("3x7", 3), ("queries", 37)):
        sequences = samples.make_ids(workload, folder, seed=int(np.random.default_rng().integers(100))).inputs[:count]
        right = exact.many(sequences)
        for found in (peer.batch(sequences), peer.many(sequences)):
            assert found.shape == right.shape
            assert (np.abs(found - right) <= answers.BOUNDS[dtype] * np.abs(right).max()).all()
    assert peer.version
