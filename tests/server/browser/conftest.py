"""Fixtures of the browser's tests: a running `distilrt serve`, and Chromium on its page (`make test-browser`)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

PATIENCE = 60  # seconds, for what takes less than one
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"  # as a model's label
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "nli": ("DistilBertForSequenceClassification", {"id2label": {0: "entailment", 1: "neutral", 2: "contradiction"}}),
    "hostile": ("DistilBertForSequenceClassification", {"id2label": {0: HOSTILE, 1: "good"}}),
    "masks": ("DistilBertForMaskedLM", {}),
    "questions": ("DistilBertForQuestionAnswering", {}),
    "entities": (
        "DistilBertForTokenClassification",
        {"id2label": {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "B-ORG"}},
    ),
    "choices": ("DistilBertForMultipleChoice", {}),
    "hostile/entities": ("DistilBertForTokenClassification", {"id2label": {0: HOSTILE, 1: "B-PER"}}),
}

# A task and a model that serves it.
CASES = [
    ("nli", "text-classification"),
    ("nli", "zero-shot-classification"),
    ("masks", "fill-mask"),
    ("questions", "question-answering"),
    ("entities", "token-classification"),
    ("choices", "multiple-choice"),
    ("encoder", "sentence-similarity"),
    ("encoder", "feature-extraction"),
    ("tokens", "feature-extraction"),
]


class Server:
    """A running `distilrt serve`; `url` ends with a slash."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "distilrt", "serve", "--port", "0", "--threads", "1", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert "http://" in line, line + self.process.stderr.read()
        self.url = line.split()[-1] + "/"
        end = time.monotonic() + PATIENCE
        while self.stats()["status"] != "ready":
            assert time.monotonic() < end
            time.sleep(0.05)

    def stats(self) -> Any:
        with urllib.request.urlopen(self.url + "stats") as response:
            return json.load(response)

    def end(self) -> None:
        """Kill it; again is harmless."""
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A model and its task, each in turn."""
    model, task = request.param
    return model, task


@pytest.fixture
def cases() -> list[tuple[str, str]]:
    """All of these."""
    return CASES


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., Server]]:
    """Starts a server by the words of its command line."""
    servers: list[Server] = []

    def start(*arguments: str) -> Server:
        servers.append(Server(*arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


@pytest.fixture(scope="session")
def server(serve: Callable[..., Server], folder_of: Callable[..., Path], sentence_encoder: Path) -> Server:
    """A server with a model of every head, most of them tiny and one real."""
    sources = {name: folder_of(architecture, **changes) for name, (architecture, changes) in MODELS.items()}
    sources["encoder"] = sentence_encoder
    sources["tokens"] = folder_of("DistilBertModel")
    return serve(*(word for name, folder in sources.items() for word in ("--model", f"{name}={folder}")))


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    """Headless Chromium, one for all tests."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert browser, "install chromium and chromium-driver: make test-browser does so for root"
    assert driver, "install chromium and chromium-driver: make test-browser does so for root"
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                     "--disable-background-networking", "--disable-component-update", "--no-first-run"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    yield running
    running.quit()


class Page:
    """The page as a person uses it."""

    def __init__(self, chromium: webdriver.Chrome, url: str) -> None:
        self.browser, self.url = chromium, url

    def open(self) -> None:
        self.browser.get(self.url)
        self.until(lambda: self.all("body[data-loaded]"))

    def until(self, condition: Callable[[], Any]) -> Any:
        """What the condition gives once that is true."""
        return WebDriverWait(self.browser, PATIENCE, poll_frequency=0.05).until(lambda _: condition())

    def all(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements(By.CSS_SELECTOR, selector))

    def one(self, selector: str) -> Any:
        [found] = self.all(selector)
        return found

    def texts(self, selector: str) -> list[str]:
        """The text of elements, also where it can't be seen."""
        return list(self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector))

    def choose(self, model: str, task: str | None = None) -> None:
        Select(self.one("#model")).select_by_value(model)
        if task:
            self.one(f"label[for='task-{task}']").click()

    def fill(self, **values: Any) -> None:
        """Fill in fields by name: booleans are checkboxes, of a choice the text is given."""
        for name, value in values.items():
            field = self.one(f"#field-{name}")
            if isinstance(value, bool):
                if field.is_selected() != value:
                    field.click()
            elif field.tag_name == "select":
                Select(field).select_by_visible_text(value)
            else:
                field.clear()
                field.send_keys(value)

    def send(self) -> None:
        """Send, and wait for an answer or an error."""
        self.run("document.querySelector('#answer').replaceChildren()")
        self.one("#send").click()
        self.until(lambda: self.all("#answer > *"))

    def read(self, form: str) -> str:
        """Request, answer, timing or curl, as they can be copied."""
        self.one(f"label[for='form-{form}']").click()
        return self.texts("#exchange")[0]

    def bars(self) -> list[tuple[str, float, float]]:
        """Name, number and part of the width of each bar of the answer."""
        script = """return [...document.querySelectorAll('#answer .bars li')].map(row => [
            row.querySelector('.name').textContent, Number(row.querySelector('.number').textContent.replace(',', '')),
            row.querySelector('.fill').getBoundingClientRect().width
                / row.querySelector('.track').getBoundingClientRect().width])"""
        return [tuple(row) for row in self.run(script)]

    def answer(self) -> Any:
        """What the server answered."""
        return json.loads(self.read("answer"))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def command(self, name: str, **parameters: Any) -> Any:
        """One of the developer tools' protocol."""
        return self.browser.execute_cdp_cmd(name, parameters)

    def size(self, width: int, height: int = 900) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def scheme(self, name: str) -> None:
        """light or dark"""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def complaints(self) -> list[str]:
        """What the console says since it was last asked."""
        return logged(self.browser, "browser")


def logged(chromium: webdriver.Chrome, kind: str) -> list[str]:
    """What came into a log since it was last asked."""
    return [str(entry["message"]) for entry in chromium.execute("getLog", {"type": kind})["value"]]


@pytest.fixture
def page(chromium: webdriver.Chrome, server: Server) -> Iterator[Page]:
    """The page, open, wide and light; afterwards, nothing was asked for from another machine."""
    page = Page(chromium, server.url)
    chromium.get("about:blank")
    for kind in ("browser", "performance"):
        logged(chromium, kind)
    page.size(1200)
    page.scheme("light")
    page.open()
    yield page
    events = [json.loads(message)["message"] for message in logged(chromium, "performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert asked
    assert [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:"))] == []
