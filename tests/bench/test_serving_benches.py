"""benches/serving: what a soak must notice, and rows of servers. The benches themselves start real servers: make
bench-serving, soak."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer

from benches.serving import compare, servers, soak
from benches.serving.servers import KINDS, Server
from distilrt.bench import findings
from distilrt.bench.findings import Findings
from distilrt.bench.load import Load
from distilrt.bench.scenarios import Plan
from distilrt.bench.statistics import parse_slo


def test_memory_that_grows() -> None:
    assert soak.flat([50, 99, 100, 100, 101, 100]) == []
    assert soak.flat([100]) == []
    (line,) = soak.flat([50, 60, 100, 100, 120, 130])
    assert "grew" in line


def test_answers_are_counted_and_compared(server: Any, classifier: str) -> None:
    server.rss_mb, server.kind = (lambda: 100.0), KINDS["distilrt"]

    def plan(target: Any, window: Any) -> list[str]:
        window(Load("single", 0.0, 300))
        return []

    assert soak.measure(server, Path(classifier), plan) == []
    count = itertools.count()
    server.reply = lambda path, body: (200, [[{"label": "LABEL_0", "score": float(next(count) > 280)}]])
    assert any("differ from the first" in line for line in soak.measure(server, Path(classifier), plan))
    server.reply = lambda path, body: ((200, 429, 500)[next(count) % 3], [[{"label": "LABEL_0", "score": 1.0}]])
    (line,) = soak.measure(server, Path(classifier), plan)
    assert "HTTP 500" in line
    assert "429" not in line


def test_the_server_must_count_what_the_client_does(server: Any, classifier: str) -> None:
    server.rss_mb, server.kind = (lambda: 100.0), KINDS["distilrt"]
    answered, extra = itertools.count(), 0

    def reply(path: str, body: Any) -> tuple[int, Any]:
        if path == "/metrics":  # as a JSON text, so without the quotes that stand there
            return 200, ""
        next(answered)
        return 200, [[{"label": "LABEL_0", "score": 1.0}]]

    def plan(target: Any, window: Any) -> list[str]:
        window(Load("single", 0.0, 10))
        return []

    server.reply = reply
    assert soak.measure(server, Path(classifier), plan) == []
    counts = iter([Counter({"200": 5}), Counter({"200": 15 + extra})])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soak, "counted", lambda url: next(counts))
        assert soak.measure(server, Path(classifier), plan) == []
        counts = iter([Counter({"200": 5}), Counter({"200": 16})])
        (line,) = soak.measure(server, Path(classifier), plan)
    assert "the server counts {'200': 11} responses, the client {'200': 10}" in line


def test_counts_of_a_real_server(classifier: str) -> None:
    """Counts agree with a real server's, refusals are timed from their sending, and its end loses nothing."""
    with Server("distilrt-float32", Path(classifier), 1) as running:
        assert running.version.startswith("distilrt ")
        assert running.engine == classifier

        def plan(target: Any, window: Any) -> list[str]:
            window(Load("flood", 0.0, 200, size=8))
            return []

        assert soak.measure(running, Path(classifier), plan) == []
        assert soak.counted(running.url)["200"] >= 200
        assert soak.drained(running, Path(classifier)) == []


def test_a_server_that_drops_requests_at_its_end(server: Any, classifier: str) -> None:
    class Process:
        returncode = 0
        stopped = False

        def send_signal(self, number: int) -> None:
            self.stopped = True

        def wait(self, seconds: float) -> int:
            return -9

    count, process = itertools.count(), Process()
    server.process, server.kind = process, KINDS["distilrt"]
    right = [[{"label": "LABEL_0", "score": 1.0}]]
    server.reply = lambda path, body: (0 if next(count) > soak.UNDER_WAY + 20 else 200, right)
    lost, ended = soak.drained(server, Path(classifier))
    assert process.stopped
    assert "requests under way were lost at the end: {'connection lost'" in lost
    assert ended == "the server ended with -9"


def test_missing_program(classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noticed before anything is converted for it."""
    monkeypatch.setattr(servers, "artefact", lambda folder, kind: pytest.fail("converted"))
    with pytest.raises(RuntimeError, match=r"infinity-torch is not installed: .*make .venv-infinity/stamp"):
        Server("infinity-torch", Path(classifier), 1, tmp_path)


@pytest.mark.whole
def test_a_comparison_and_its_rows(folder_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of this package beside its engine; one that is not installed is named."""
    folder = folder_of("DistilBertForSequenceClassification")
    monkeypatch.setattr(compare, "SHAPES", ("1x8", "1x16"))
    plans = Plan("single", 0.2), Plan("offline", 0.2), Plan("peak", 0.3, 5, slo=parse_slo("p99=10s"))
    found = Findings(findings.facts(1, str(folder)), {})
    compare.compare(["distilrt-float32", "infinity-torch"], plans, folder, 1, Path("/nowhere"), found, lambda *_: None)
    assert [(row["target"].split()[-1], row["scenario"]) for row in found.rows] == [
        ("distilrt-float32", "single"), ("engine", "single"), ("distilrt-float32", "single"), ("engine", "single"),
        ("engine", "offline"), ("distilrt-float32", "peak")]  # fmt: skip
    assert all(row["max_difference"] < 1e-3 and row["start_s"] and row["peak_mb"] for row in found.rows)
    assert any("infinity-torch is not installed" in line for line in found.left_out)


def test_unknown_servers() -> None:
    with pytest.raises(typer.BadParameter, match=r"servers are distilrt, .*found apache"):
        compare.main(names="distilrt,apache")


@pytest.mark.parametrize("plan", [soak.steady, soak.overload])
def test_plans(server: Any, classifier: str, plan: Any) -> None:
    """Against a server that takes everything: it never refuses, which an overload must notice."""
    server.rss_mb, server.kind = (lambda: 100.0), KINDS["distilrt"]
    broken = soak.measure(server, Path(classifier), plan(server, 0.6))
    assert not any("memory" in line or "outcomes" in line for line in broken)
    assert any("nothing was refused" in line for line in broken) == (plan is soak.overload)


def test_times_that_break_nothing(server: Any, classifier: str, capsys: pytest.CaptureFixture[str]) -> None:
    server.rss_mb, server.kind = (lambda: 100.0), KINDS["distilrt"]
    assert soak.measure(server, Path(classifier), soak.overload(server, 0.6, times=False)) == []
    assert "not held here: nothing was refused" in capsys.readouterr().out
