"""Real Serve applications, asked through Ray's proxy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from huggingface_hub import InferenceClient

import distilrt

ray = pytest.importorskip("ray", reason="needs Ray: make test-ray")
from ray import serve  # noqa: E402

from distilrt.scale.ray_serve import app, build_app  # noqa: E402

TEXTS = ["I love it.", "I want my money back.", "It is what it is.", "Never again!"]
SERVING = Path(__file__).parents[2] / "docs" / "serving.md"


class Answer(NamedTuple):
    """Of an HTTP request."""

    status: int
    headers: Any
    body: Any  # of JSON; else the bytes


def ask(url: str, content: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """The answer to a GET, or to a POST of JSON; once."""
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, body, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return _read(response)
    except urllib.error.HTTPError as error:
        return _read(error)


def _read(response: Any) -> Answer:
    body = response.read()
    if "json" in response.headers.get("content-type", ""):
        body = json.loads(body)
    return Answer(response.status, response.headers, body)


def expected(folder: Path) -> list[Any]:
    """What the model says of TEXTS, all labels; to the bit, since answers do not depend on batch mates."""
    return list(distilrt.pipeline("text-classification", folder, num_threads=1)(TEXTS, top_k=None))


@contextmanager
def load(address: str, content: Any, clients: int = 8) -> Iterator[list[Answer]]:
    """Clients that ask one after the other, without a second try, until the block ends; what they got."""
    answers: list[Answer] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            answers.append(ask(address, content))

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client) for _ in range(clients)]
        try:
            yield answers
        finally:
            stop.set()
    for future in running:
        future.result()


def replicas() -> list[str]:
    """The names of the running ones."""
    return [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)
            if actor["name"].startswith("SERVE_REPLICA::test#")]  # fmt: skip


def running() -> int:
    """How many replicas take requests."""
    return int(serve.status().applications["test"].deployments["distilrt"].replica_states.get("RUNNING", 0))


def eventually(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_routes(run: Callable[..., str], classifier: Path) -> None:
    address = run(str(classifier), name="sentiment")
    for url in (address, f"{address}/models/sentiment"):
        answer = ask(url, {"inputs": TEXTS})
        assert answer.status == 200, answer
        assert answer.body == expected(classifier)
        assert int(answer.headers["x-compute-tokens"]) > 0
    found = InferenceClient(model=address).text_classification(TEXTS[0])
    assert [item.label for item in found] == [item["label"] for item in expected(classifier)[0]]
    for probe in ("/livez", "/readyz", "/health"):
        assert ask(address + probe).status == 200, probe
    assert b"distilrt_model_info{" in ask(address + "/metrics").body
    for content, status in (({"inputs": 1}, 422), ({"inputs": "a", "parameters": {"nonsense": 1}}, 422)):
        answer = ask(address, content)
        assert answer.status == status
        assert answer.body["error"]
    unknown = ask(f"{address}/models/other", {"inputs": "a"})
    assert (unknown.status, unknown.body["error_type"]) == (404, "UnknownModel")
    assert "sentiment" in unknown.body["error"]


def test_settings(run: Callable[..., str], classifier: Path) -> None:
    address = run(str(classifier), settings={"max_inputs": 1})
    assert ask(address, {"inputs": TEXTS}).status == 413
    run(str(classifier), settings={"max_inputs": 8, "api_key": "secret"})
    assert ask(address, {"inputs": TEXTS}).status == 401
    assert ask(address, {"inputs": TEXTS}, {"authorization": "Bearer secret"}).status == 200


def test_too_many_requests(run: Callable[..., str], classifier: Path) -> None:
    """Serve's queue refuses what comes on top; so does the engine's."""
    long = {"inputs": TEXTS * 400}
    address = run(str(classifier), max_ongoing_requests=1, max_queued_requests=1)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(address, long), range(24)))
    assert {answer.status for answer in answers} == {200, 429}
    for answer in answers:
        if answer.status == 200:
            assert answer.body == expected(classifier) * 400
        else:
            assert int(answer.headers["retry-after"]) >= 1
    run(str(classifier), max_queue_tokens=1)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(address, long), range(24)))
    assert {answer.status for answer in answers} == {200, 429}
    assert {answer.body["error_type"] for answer in answers if answer.status == 429} == {"Overloaded"}


def test_several_models(run: Callable[..., str], folder_of: Callable[..., Path], classifier: Path) -> None:
    folders = {"first": classifier, "filler": folder_of("DistilBertForMaskedLM"),
               "words": folder_of("DistilBertForTokenClassification")}  # fmt: skip
    address = run({name: str(folder) for name, folder in folders.items()}, max_models=1)
    inputs = {"first": "Good.", "filler": "A [MASK] day.", "words": "I live in Paris."}
    words = distilrt.pipeline("token-classification", folders["words"], num_threads=1)(inputs["words"])
    truth = {
        "first": distilrt.pipeline("text-classification", classifier, num_threads=1)("Good.", top_k=None),
        "filler": distilrt.pipeline("fill-mask", folders["filler"], num_threads=1)(inputs["filler"]),
        "words": words,
    }

    def check(name: str, by_path: bool) -> None:
        url, headers = (f"{address}/models/{name}", {}) if by_path else (address, {"serve_multiplexed_model_id": name})
        answer = ask(url, {"inputs": inputs[name]}, headers)
        assert answer.status == 200, answer
        found = answer.body[0] if name == "first" else answer.body
        assert found == json.loads(json.dumps(truth[name])), name

    for name in ("first", "filler", "words", "filler"):
        for by_path in (True, False):
            check(name, by_path)
    with ThreadPoolExecutor(6) as pool:  # each pushes the other out, and nobody's request is lost
        list(pool.map(lambda i: check(("filler", "words")[i % 2], i % 3 == 0), range(30)))
    assert ask(address, {"inputs": "a"}, {"serve_multiplexed_model_id": "other"}).status == 404


def test_replicas_come_with_load(run: Callable[..., str], classifier: Path) -> None:
    scaling = {"max_replicas": 2, "target_ongoing_requests": 1, "look_back_period_s": 1, "upscale_delay_s": 0.2}
    address = run(str(classifier), autoscaling=scaling, max_queue_tokens=10**6)
    assert running() == 1
    with load(address, {"inputs": TEXTS * 100}) as answers:
        eventually(lambda: running() == 2)
    assert {answer.status for answer in answers} == {200}


def test_a_killed_replica_loses_no_answer(run: Callable[..., str], classifier: Path) -> None:
    """Nor does one that is taken away. No client asks twice."""
    address = run(str(classifier), num_replicas=2, max_queue_tokens=10**6)
    truth = expected(classifier) * 50

    def kill() -> None:
        """One of two, while requests come."""
        before = len(answers)
        eventually(lambda: running() == 2 and len(answers) > before + 20)
        killed = replicas()[0]
        ray.kill(ray.get_actor(killed, namespace="serve"))
        eventually(lambda: killed not in replicas())

    with load(address, {"inputs": TEXTS * 50}) as answers:
        for _ in range(3):
            kill()
        eventually(lambda: running() == 2)
        run(str(classifier), num_replicas=1, max_queue_tokens=10**6)
        eventually(lambda: len(replicas()) == 1)
    assert len(answers) > 60
    for answer in answers:
        assert answer.status == 200, answer
        assert answer.body == truth


def test_arguments_of_the_builder(classifier: Path) -> None:
    built = build_app({"model": str(classifier), "num_replicas": "2", "num_threads": "1", "dtype": "float32",
                       "max_ongoing_requests": "7", "autoscaling": None})  # fmt: skip
    deployment = built._bound_deployment
    assert (deployment.num_replicas, deployment.max_ongoing_requests) == (2, 7)
    assert deployment.backpressure_config.status_code == 429
    for args, words in (
        ({}, "model"),
        ({"model": "a", "nonsense": "1"}, "nonsense"),
        ({"model": "a", "num_replicas": "many"}, "num_replicas"),
    ):
        with pytest.raises(ValueError, match=words):
            build_app(args)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": {}}, "at least one name"),
        ({"model": {"": "a", "b": "c"}}, "at least one name"),
        ({"model": {"a": "b"}, "name": "c"}, "single model"),
        ({"num_replicas": 2, "autoscaling": {}}, "not both"),
        ({"num_threads": 0}, "num_threads"),
        ({"autoscaling": {"replicas": 2}}, "autoscaling has no replicas; it has .*max_replicas"),
        ({"settings": {"max_inputs": 0}}, "max_inputs"),
    ],
)
def test_arguments_that_are_not_allowed(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        app(**{"model": "a", **options})


def test_resources_of_a_replica() -> None:
    options = app("a", num_threads=3, num_gpus=0.5, drain_timeout=7)._bound_deployment
    assert options.ray_actor_options["num_cpus"] == 3
    assert options.ray_actor_options["num_gpus"] == 0.5
    scaling = app("a", autoscaling={"max_replicas": 3})._bound_deployment._deployment_config.autoscaling_config
    assert (scaling.max_replicas, scaling.target_ongoing_requests) == (3, 32)


def _blocks(language: str) -> list[str]:
    section = SERVING.read_text().partition("\n## Many machines\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.M | re.S)


@pytest.mark.parametrize("code", _blocks("python"))
def test_python_block_of_the_page(cluster: str, code: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    for name in list(serve.status().applications):
        serve.delete(name)
    assert done.returncode == 0, done.stderr


def test_command_of_the_page(cluster: str, tmp_path: Path) -> None:
    [command] = re.findall(r"^\$ serve (run .*)$", "".join(_blocks("console")), re.M)
    words = [sys.executable, "-m", "ray.serve.scripts", *command.split(), "--non-blocking"]
    done = subprocess.run(words, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=300)
    try:
        assert done.returncode == 0, done.stderr
        assert ask(cluster, {"inputs": "I love it."}).status == 200
    finally:
        for name in list(serve.status().applications):
            serve.delete(name)
