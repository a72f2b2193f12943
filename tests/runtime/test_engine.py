"""The engine on real models: the answers of `tasks.run` for any mix of callers, and every refusal."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import distilrt
from distilrt import tasks
from distilrt.backends.cpu import CpuBackend
from distilrt.errors import (
    BackendError,
    DeadlineExceeded,
    InvalidInput,
    InvalidParameter,
    NotReady,
    Overloaded,
    TooLarge,
    TooLong,
)
from distilrt.model import models
from distilrt.runtime.engine import Engine
from distilrt.runtime.reading import EACH, PART, Limits
from distilrt.tasks.text_classification import TextClassification
from distilrt.text.tokenizer import DistilBertTokenizer

Folders = Callable[..., Path]
PATIENCE = 60
CLASSIFIER = "DistilBertForSequenceClassification"
NLI = {"0": "entailment", "1": "neutral", "2": "contradiction"}
TEXT = "Ada Lovelace wrote programs in London."
# Of each task an architecture, an input, and parameters.
TASKS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "text-classification": (CLASSIFIER, TEXT, {"top_k": None}),
    "zero-shot-classification": (CLASSIFIER, TEXT, {"candidate_labels": ["sport", "art", "law"]}),
    "fill-mask": ("DistilBertForMaskedLM", "[MASK] is a [MASK].", {"top_k": 2}),
    "question-answering": (
        "DistilBertForQuestionAnswering", {"question": "Who?", "context": TEXT * 9}, {"doc_stride": 8}
    ),
    "token-classification": ("DistilBertForTokenClassification", TEXT, {"aggregation_strategy": "first"}),
    "feature-extraction": ("DistilBertModel", TEXT, {}),
    "sentence-similarity": ("DistilBertModel", {"source_sentence": TEXT, "sentences": ["a", "b c"]}, {}),
    "multiple-choice": ("DistilBertForMultipleChoice", {"prompt": TEXT, "choices": ["a", "b c", TEXT]}, {}),
}  # fmt: skip


def folder_for(folder_of: Folders, task: str) -> Path:
    architecture = TASKS[task][0]
    return folder_of(architecture, id2label=NLI) if architecture == CLASSIFIER else folder_of(architecture)


@pytest.fixture
def classifier(folder_of: Folders) -> Any:
    with Engine(folder_of(CLASSIFIER, id2label=NLI), max_queue_tokens=10**6) as engine:
        yield engine


def expected(engine: Engine, task: str, inputs: list[Any], params: dict[str, Any]) -> list[Any]:
    bound = tasks.find(task)(engine.tokenizer, engine.model.config, engine.sentence)
    return list(tasks.run(engine.model, bound, inputs, params, max_tokens=1))


@pytest.mark.parametrize("task", list(TASKS))
def test_answers_are_those_of_the_task(folder_of: Folders, task: str) -> None:
    _, item, params = TASKS[task]
    with Engine(folder_for(folder_of, task), max_queue_tokens=10**6) as engine:
        assert task in engine.tasks
        [answer] = expected(engine, task, [item], params)
        assert engine(task, item, **params) == answer
        assert engine(task, [item] * 3, **params) == [answer] * 3
        assert engine(task, [], **params) == []
        request = engine.submit(task, [item, item], params)
        assert request.result(PATIENCE) == [answer, answer]
        assert request.timing is not None
        assert request.timing.tokens == sum(map(len, request.sequences))
        assert asyncio.run(engine.asubmit(task, item, params)) == answer


def test_tasks_of_one_model_share_batches(classifier: Engine) -> None:
    choice = random.Random(0)
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("text-classification", {"top_k": None}),
        ("zero-shot-classification", {"candidate_labels": "a,b"}),
    ]
    calls = [(*choice.choice(kinds), " ".join(["word"] * choice.randint(1, 40))) for _ in range(60)]
    futures = [classifier.submit(task, text, params) for task, params, text in calls]
    for (task, params, text), future in zip(calls, futures, strict=True):
        assert [future.result(PATIENCE)] == expected(classifier, task, [text], params)
    sizes = classifier.counters.batch_sequences
    assert sum(sizes.counts) < sizes.total  # several together at least once
    assert classifier.counters.requests["text-classification", "answered"] > 0


def test_many_threads_and_event_loops(classifier: Engine) -> None:
    texts = [f"number {i} " * (i % 9 + 1) for i in range(120)]
    answers = expected(classifier, "text-classification", texts, {})
    found: dict[int, Any] = {}

    def thread(start: int) -> None:
        for i in range(start, 120, 8):
            found[i] = classifier("text-classification", texts[i])

    def loop(start: int) -> None:
        async def one(i: int) -> None:
            found[i] = await classifier.asubmit("text-classification", texts[i])

        async def main() -> None:
            await asyncio.gather(*(one(i) for i in range(start, 120, 8)))

        asyncio.run(main())

    callers = [threading.Thread(target=loop if i % 2 else thread, args=(i,)) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE)
    assert [found[i] for i in range(120)] == answers


def test_long_inputs_are_tokenized_beside_the_loop(classifier: Engine) -> None:
    texts, params = ["long " * 1000] * 5, {"truncation": True}
    assert asyncio.run(classifier.asubmit("text-classification", texts, params)) == expected(
        classifier, "text-classification", texts, params
    )

    async def refused() -> None:
        with pytest.raises(TooLong, match=r"^input 0: "):
            await classifier.asubmit("text-classification", texts)
        with pytest.raises(ValueError, match="priority must be"):
            await classifier.asubmit("text-classification", texts, priority=99)

    asyncio.run(refused())
    assert classifier.counters.requests["text-classification", "invalid"] == 1


@pytest.mark.parametrize("words", [1, 3000])
def test_cancelling_what_is_awaited(folder_of: Folders, words: int) -> None:
    with Engine(folder_of(CLASSIFIER), max_delay=PATIENCE, max_queue_tokens=10**6) as engine:

        async def main() -> None:
            task = asyncio.create_task(engine.asubmit("text-classification", "a " * words, {"truncation": True}))
            while not engine.waiting[0]:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while engine.waiting[0]:  # the thread that tokenized may be on its way back
                await asyncio.sleep(0.001)
            assert engine.waiting == (0, 0, 0)

        asyncio.run(main())
        assert engine.counters.requests == {("text-classification", "cancelled"): 1}


class Held:
    """Tokenizes texts to their length alone, but not before it is let."""

    def __init__(self) -> None:
        self.entered, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.texts: list[str] = []

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        self.texts += texts
        self.entered.release()
        assert self.gate.acquire(timeout=PATIENCE)
        return [[len(text)] for text in texts]


@pytest.fixture
def held(classifier: Engine) -> Iterator[Held]:
    """Both of the engine's tokenizing threads are busy with a text of "first"."""
    tokenize = Held()
    for _ in range(2):
        classifier.read(["first"], tokenize, client="first")
        assert tokenize.entered.acquire(timeout=PATIENCE)
    yield tokenize
    tokenize.gate.release(1000)


LONG = "a" * PART  # a part by itself


def test_texts_are_tokenized_in_parts_for_clients_in_turn(classifier: Engine, held: Held) -> None:
    greedy = classifier.read([LONG] * 9, held, client="greedy")
    other = classifier.read(["b" * 900] * 3, held, client="other")
    urgent = classifier.read(["c"], held, client="greedy", priority=1)
    assert classifier.unread == (5, 9 * (PART + EACH) + 3 * (900 + EACH) + 1 + EACH)
    held.gate.release(1000)
    assert (greedy.result(PATIENCE), other.result(PATIENCE), urgent.result(PATIENCE)) == (
        [[PART]] * 9, [[900]] * 3, [[1]],
    )  # fmt: skip
    order = [text[0] for text in held.texts]
    assert order[:3] == ["f", "f", "c"]
    assert order.index("b") <= 4


def test_whoever_hangs_up_is_not_tokenized(classifier: Engine, held: Held) -> None:
    waiting = classifier.enqueue("text-classification", ["a " * 2000] * 50, {"truncation": True})
    halfway = classifier.read([LONG] * 3, held)
    held.gate.release(2)
    for _ in range(2):
        assert held.entered.acquire(timeout=PATIENCE)  # two of three parts
    assert waiting.cancel()
    assert halfway.cancel()
    assert classifier.unread[1] == 0  # one thread may have taken both parts, and the other be at its first text
    held.gate.release(2)
    assert classifier("text-classification", [TEXT] * 500)  # behind it in the same threads
    assert len(held.texts) == 4
    assert classifier.counters.requests["text-classification", "cancelled"] == 1


def test_deadlines_hold_while_others_are_tokenized(classifier: Engine, held: Held) -> None:
    late = classifier.enqueue("text-classification", ["a"] * 500, deadline=0.01)
    time.sleep(0.02)
    held.gate.release(2)
    with pytest.raises(DeadlineExceeded):
        late.result(PATIENCE)
    assert classifier.counters.requests["text-classification", "expired"] == 1


@pytest.mark.parametrize("drain", [True, False])
def test_closing_while_texts_wait(classifier: Engine, held: Held, drain: bool) -> None:
    waiting = classifier.enqueue("text-classification", ["a"] * 500)
    assert not classifier.close(drain, timeout=0.01)  # a thread that is stuck does not hold the caller
    assert waiting.done() != drain
    held.gate.release(1000)
    assert classifier.close(drain)
    if drain:
        assert len(waiting.result(0)) == 500
    else:
        assert isinstance(waiting.exception(0), NotReady)


LIMITS: list[tuple[Limits, str]] = [
    (Limits(299, 10**6, 10**6), "the request has 300 texts, at most 299 are allowed"),
    (Limits(300, 100, 10**6), "the request has [0-9]+ characters to read, .* at most 100 are allowed"),
    (Limits(300, 10**6, 899), "the texts have at least 900 tokens, at most 899 are allowed"),
]


@pytest.mark.parametrize(("limits", "message"), LIMITS)
@pytest.mark.parametrize("call", ["submit", "enqueue"])
def test_limits_of_a_request(classifier: Engine, limits: Limits, message: str, call: str) -> None:
    with pytest.raises(TooLarge, match=message):
        getattr(classifier, call)("text-classification", ["a"] * 300, limits=limits).result(PATIENCE)
    allowed = Limits(300, 300, 900)
    assert len(getattr(classifier, call)("text-classification", ["a"] * 300, limits=allowed).result(PATIENCE)) == 300
    assert classifier.counters.requests["text-classification", "invalid"] == 1


def test_limits_count_what_is_repeated(classifier: Engine) -> None:
    labels = {"candidate_labels": [str(number) for number in range(50)]}
    with pytest.raises(TooLarge, match="characters to read"):
        classifier.enqueue("zero-shot-classification", "a" * 1000, labels, limits=Limits(100, 50_000, 10**6))


def test_an_error_in_a_later_part_names_its_input(classifier: Engine) -> None:
    texts = ["a " * 20] * 900 + [7] + ["a"] * 900
    with pytest.raises(InvalidInput, match=r"^input 900: "):
        classifier.enqueue("text-classification", texts).result(PATIENCE)


class Mapped(dict[str, Any]):
    """An input that can be referred to weakly."""


@pytest.mark.parametrize("call", ["submit", "enqueue"])
@pytest.mark.parametrize("text", ["a " * 2000, 7, "b"], ids=["too long", "invalid", "failed batch"])
def test_an_error_keeps_no_text_alive(
    classifier: Engine, call: str, text: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(CpuBackend, "forward", broken)
    monkeypatch.setattr(logging.getLogger("distilrt"), "disabled", True)  # pytest keeps what is logged
    item = Mapped(text="a " * 40, text_pair=text)
    gone = weakref.ref(item)

    def refused(item: Any) -> None:
        with contextlib.suppress(InvalidInput, BackendError):
            inputs = [item] * 100 if text == "b" else [item, "a" * 3000]
            getattr(classifier, call)("text-classification", inputs).exception(PATIENCE)

    gc.collect()
    gc.disable()
    try:
        refused(item)
        del item
        end = time.monotonic() + 2
        while gone() is not None and time.monotonic() < end:  # a thread may be on its way out
            time.sleep(0.001)
        assert gone() is None
    finally:
        gc.enable()


def test_a_bad_input_harms_nobody(classifier: Engine) -> None:
    good = classifier.submit("text-classification", TEXT)
    with pytest.raises(InvalidInput, match=r"^input 1: expected a string"):
        classifier.submit("text-classification", [TEXT, {"txt": 1}, TEXT])
    with pytest.raises(TooLong, match=r"^the text has at least \d+ tokens"):
        classifier.submit("text-classification", "a " * 2000)
    assert [good.result(PATIENCE)] == expected(classifier, "text-classification", [TEXT], {})
    assert classifier.counters.requests["text-classification", "invalid"] == 2


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"task": "translation"}, "task must be one of text-classification"),
    ({"task": "fill-mask"}, "fill-mask needs a DistilBertForMaskedLM, and .* serves text-classification, zero-shot"),
    ({"params": {"topk": 1}}, "text-classification has no parameter 'topk'"),
    ({"params": {"top_k": 0}}, "top_k must be"),
    ({"priority": 11}, "priority must be an integer from -10 to 10, found 11"),
    ({"priority": True}, "priority must be"),
    ({"deadline": 0}, "deadline must be None or a number of seconds above 0, found 0"),
    ({"deadline": float("nan")}, "deadline must be"),
    ({"deadline": "1"}, "deadline must be"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_refusals(classifier: Engine, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier.submit(**{"task": "text-classification", "inputs": TEXT} | change)


@pytest.mark.parametrize(("change", "message"), REFUSED[4:], ids=[str(case[0]) for case in REFUSED[4:]])
def test_refusals_of_texts_that_are_only_tokenized(classifier: Engine, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        classifier.read(["a"], lambda texts: [[] for _ in texts], **change)


BAD_SETTINGS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_batch_tokens": 0}, ValueError, "max_batch_tokens must be None or an integer of at least 1, found 0"),
    ({"max_queue_tokens": 1.5}, ValueError, "max_queue_tokens must be"),
    ({"max_delay": -1}, ValueError, "max_delay must be a number of seconds of at least 0, found -1"),
    ({"dtype": "float8"}, BackendError, "float8"),
    ({"model": "./nowhere"}, OSError, "does not exist"),
    ({"model": 7}, TypeError, "model must be a folder"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_SETTINGS, ids=[str(case[0]) for case in BAD_SETTINGS])
def test_bad_settings(folder_of: Folders, change: dict[str, Any], error: type[Exception], message: str) -> None:
    before = threading.active_count()
    with pytest.raises(error, match=message):
        Engine(**{"model": folder_of(CLASSIFIER)} | change)
    assert threading.active_count() == before


def test_a_failed_batch(classifier: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(CpuBackend, "forward", broken)
        error = classifier.submit("text-classification", TEXT).exception(PATIENCE)
        assert isinstance(error, BackendError)
        assert isinstance(error.__cause__, MemoryError)
        assert not classifier.ready
        assert classifier.open
        assert isinstance(classifier.probe().exception(PATIENCE), BackendError)
    assert not classifier.ready
    assert classifier.probe().result(PATIENCE) is None
    assert classifier.ready
    assert [classifier("text-classification", TEXT)] == expected(classifier, "text-classification", [TEXT], {})


def test_overload_and_deadline(folder_of: Folders) -> None:
    with Engine(folder_of(CLASSIFIER), max_queue_tokens=1, max_delay=PATIENCE) as engine:
        request = engine.submit("text-classification", TEXT)
        with pytest.raises(Overloaded, match="tokens wait"):
            engine.submit("text-classification", 7)  # refused before anybody looks at it
        with pytest.raises(Overloaded):
            asyncio.run(engine.asubmit("text-classification", "a " * 5000))
        urgent = engine.submit("text-classification", TEXT, priority=1)
        assert engine.counters.requests == {("text-classification", "shed"): 2}
        engine.close()  # computes what waits
        assert request.result(0) == urgent.result(0)
        for inputs in (TEXT, "a " * 5000):
            with pytest.raises(NotReady):
                engine.submit("text-classification", inputs)
            with pytest.raises(NotReady):
                asyncio.run(engine.asubmit("text-classification", inputs))
        engine.close()


def test_warm_up_measures_and_counts_nothing(classifier: Engine) -> None:
    assert classifier.describe()["tokens_per_second"] is None
    classifier.warm_up()
    facts = classifier.describe()
    assert facts["tokens_per_second"] > 0
    assert (facts["max_batch_tokens"], facts["max_queue_tokens"], facts["max_input_tokens"]) == (512, 10**6, 64)
    assert (facts["task"], facts["labels"]) == ("text-classification", list(NLI.values()))
    assert facts["tasks"] == ["text-classification", "zero-shot-classification"]
    assert not classifier.counters.requests
    assert not classifier.counters.batch_tokens.total


def test_a_small_budget_still_takes_every_sequence(folder_of: Folders) -> None:
    with Engine(folder_of(CLASSIFIER), max_batch_tokens=1, max_queue_tokens=10**6) as engine:
        engine.warm_up()
        texts = [TEXT, "a", "b c " * 20]
        assert engine("text-classification", texts) == expected(engine, "text-classification", texts, {})


def test_names_pooling_and_loaded_models(folder_of: Folders, sentence_encoder: Path) -> None:
    folder = folder_of("DistilBertModel")
    model, tokenizer = models.DistilBertModel.from_pretrained(folder), DistilBertTokenizer.from_pretrained(folder)
    with Engine(model, tokenizer) as engine, Engine(folder) as other, Engine(sentence_encoder, name="mini") as third:
        assert (engine.name, other.name, third.name) == ("DistilBertModel", folder.name, "mini")
        assert (engine.pooling, other.pooling, third.pooling) == (None, None, "mean")
        assert engine.model is model
        assert "feature-extraction" in repr(engine)
        assert engine("feature-extraction", TEXT) == other("feature-extraction", TEXT)


def test_words_of_a_text_are_one_input(folder_of: Folders) -> None:
    with Engine(folder_of("DistilBertForTokenClassification")) as engine:
        words, params = TEXT.split(), {"is_split_into_words": True}
        [answer] = expected(engine, "token-classification", [words], params)
        assert engine("token-classification", words, **params) == answer
        assert engine("token-classification", [words, words], **params) == [answer, answer]


def test_it_is_public_and_lazy() -> None:
    assert distilrt.Engine is Engine


def test_an_engine_that_nobody_holds_ends_its_threads_after_its_work(folder_of: Folders) -> None:
    engine = Engine(folder_of(CLASSIFIER))
    future, ends, threads = engine.submit("text-classification", TEXT), weakref.ref(engine), engine._worker._threads
    del engine
    assert future.result(PATIENCE)["label"]
    del future
    while ends() is not None:
        gc.collect()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork(classifier: Engine) -> None:
    classifier("text-classification", TEXT)
    child = os.fork()
    if child == 0:  # no pytest here
        code = 1
        try:
            classifier.submit("text-classification", TEXT)
        except NotReady as error:
            classifier.close()
            code = 0 if "after the fork" in str(error) and not classifier.open else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert classifier("text-classification", TEXT)


@pytest.mark.parametrize("inputs", [TEXT, "a " * 5000], ids=["at once", "in a thread"])
@pytest.mark.parametrize("bug", [ValueError("bug"), TypeError("bug"), KeyError("bug")], ids=repr)
def test_a_fault_of_ours_is_no_fault_of_the_callers(
    classifier: Engine,
    bug: Exception,
    inputs: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*arguments: Any) -> Any:
        raise bug

    params = {"truncation": True}
    with monkeypatch.context() as patch:
        patch.setattr(TextClassification, "texts", broken)
        for call in (classifier.submit, classifier.enqueue):
            with pytest.raises(BackendError, match=f"{type(bug).__name__}: .*bug"):
                call("text-classification", inputs, params).result(PATIENCE)
    assert "in broken" in caplog.text
    assert caplog.text.count("Traceback") == 2
    assert classifier.counters.requests == {("text-classification", "failed"): 2}
    assert classifier("text-classification", inputs, **params)


@pytest.mark.parametrize("length", [1, 20_000])
@pytest.mark.parametrize(
    ("change", "error"),
    [({"params": {"top_k": 0}}, InvalidParameter), ({"inputs": ["\ud800"]}, InvalidInput)],
    ids=["parameter", "half a surrogate pair"],
)
def test_a_fault_of_the_callers_is_none_of_ours(
    classifier: Engine, change: dict[str, Any], error: type[Exception], length: int, caplog: pytest.LogCaptureFixture
) -> None:
    request = {"task": "text-classification", "inputs": ["a"], "params": {"truncation": True}} | change
    request["inputs"] = [text * length for text in request["inputs"]]
    for call in (classifier.submit, classifier.enqueue):
        with pytest.raises(InvalidInput) as refused:
            call(**request).result(PATIENCE)
        assert type(refused.value) is error
    assert classifier.counters.requests == {("text-classification", "invalid"): 2}
    assert not caplog.text
