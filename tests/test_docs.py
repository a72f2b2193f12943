"""Every Python block and `distilrt` command of README and docs runs, the hub ids they name in a local cache."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from distilrt import env
from distilrt.checkpoint.weights import random_weights, save_checkpoint
from distilrt.model.config import DistilBertConfig
from distilrt.server.settings import ModelSettings, Settings, options

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Hub ids in the pages, as small random models of the same architecture over a real vocabulary.
MODELS = {
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": "DistilBertForSequenceClassification",
    "distilbert/distilbert-base-cased-distilled-squad": "DistilBertForQuestionAnswering",
}
SENTENCE_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"  # is there whole


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, sentence_encoder: Path) -> dict[str, str]:
    """Variables under which the pages' commands find their models offline."""
    home = tmp_path_factory.mktemp("hub")
    shutil.copytree(sentence_encoder, _snapshot(home, SENTENCE_ENCODER))
    for name, architecture in MODELS.items():
        snapshot = _snapshot(home, name)
        labels = {0: "NEGATIVE", 1: "POSITIVE"}
        config = DistilBertConfig(dim=64, n_heads=2, n_layers=2, hidden_dim=128, id2label=labels)
        save_checkpoint(snapshot, config, random_weights(config, architecture), architecture)
        for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            shutil.copy(sentence_encoder / file, snapshot / file)
    return os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PATH": _path()}


def _snapshot(home: Path, name: str) -> Path:
    """Where a repository's files lie in the cache, which is made up to there."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    return repository / "snapshots" / ("0" * 40)


def _path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def _blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for i, text in enumerate(re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)):
            found.append((f"{page.name}-{i}", text))
    return found


# Those of dropin.md import torch, transformers and TensorFlow, each in a process: make test-tensorflow runs them all.
_SLOW = {"dropin.md": [pytest.mark.whole]}


@pytest.mark.parametrize(
    "code",
    [pytest.param(text, id=name, marks=_SLOW.get(name.rpartition("-")[0], [])) for name, text in _blocks("python")],
)
def test_python_block(code: str, environment: dict[str, str], tmp_path: Path) -> None:
    if "tensorflow" in code and importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs TensorFlow: make test-tensorflow")
    if "import serve" in code or "import ray" in code:
        pytest.skip("tests/scale runs it in a Ray: make test-ray")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


COMMANDS = [
    line.removeprefix("$ ")
    for _, text in _blocks("console")
    for line in text.splitlines()
    if line.startswith("$ distilrt") and not line.startswith("$ distilrt serve")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, environment: dict[str, str], tmp_path: Path) -> None:
    words = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_serving_page(environment: dict[str, str], tmp_path: Path) -> None:
    """Its server, on a free port, and every request to it."""
    page = (ROOT / "docs" / "serving.md").read_text()
    [serve] = re.findall(r"^\$ (distilrt serve .*)", page, re.M)
    requests = re.findall(r"^\$ curl -s (\S+)(?: -d '(.*)')?$", page, re.M)
    assert len(requests) == page.count("$ curl")
    words = [sys.executable, "-m", *shlex.split(serve), "--port", "0"]
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            address = server.stderr.readline().split()[-1]
            _asked(address + "/readyz", "", patience=60)
            for url, body in requests:
                assert url.startswith("localhost:8080")
                _asked(url.replace("localhost:8080", address), body)
        finally:
            server.terminate()
    assert server.returncode == 0


def _asked(url: str, body: str, patience: float = 0) -> None:
    """Ask, again for so many seconds while the server is warming up."""
    end = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body.encode() or None)) as response:
                assert response.read()
                return
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > end:
                raise
            time.sleep(0.05)


def test_there_is_something_to_run() -> None:
    assert _blocks("python")
    assert COMMANDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_verbs_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for verb in re.findall(r"`make ([a-z-]+)`", page.read_text()):
            assert re.search(rf"^{verb}:", makefile, re.M), f"{page.name} names `make {verb}`"


def test_libraries_of_the_drop_in_page_have_the_versions_that_are_tested() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| ([0-9.]+) \|", (ROOT / "docs" / "dropin.md").read_text(), re.M)
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "libraries").glob("test_*.py"))
    imported = {re.sub("[._]", "-", name) for name in re.findall(r"^(?:from|import) ([a-z_.]+)", tests, re.M)}
    for name, version in rows:
        assert f"{name}=={version}" in pinned
        assert name.removesuffix("-ai").removesuffix("-cpu") in imported, f"tests/libraries does not import {name}"
    assert len(rows) == 11


def test_environment_page_lists_every_variable() -> None:
    page = (ROOT / "docs" / "environment.md").read_text()
    sources = [*(ROOT / "engine").rglob("*.py"), ROOT / "setup.py"]
    for variable in {name for path in sources for name in re.findall(r"DISTILRT_[A-Z_]+", path.read_text())}:
        assert f"`{variable}" in page, f"docs/environment.md does not list {variable}"
    for variable in (env.backend, env.num_threads, env.gpu_memory, env.force_isa):
        assert f"| `{variable.name}` | {variable.about} |" in page
    for name, option in {**options(ModelSettings), **options(Settings)}.items():
        row = f"| `DISTILRT_{name.upper()}` | {option.help} Default: {option.default_text}. |"
        assert row in page or not option.variable
