"""benches/serving: what a soak must notice, and how rows are made. The benches themselves start real servers: make
bench-serving, soak."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer

from benches.serving import compare, rows, servers, soak
from benches.serving.servers import KINDS, Server
from distilrt.bench import report
from distilrt.bench.child import PeerError
from distilrt.bench.latencies import Window
from distilrt.bench.load import Load
from distilrt.bench.targets import Spec


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
    monkeypatch.setattr(servers, "artefact", lambda folder, kind: tmp_path)
    with pytest.raises(RuntimeError, match=r"infinity-torch is not installed: .*make .venv-infinity/stamp"):
        Server("infinity-torch", Path(classifier), 1, tmp_path)


class Asked:
    """Stands in for `compare.Target`."""

    def __init__(self, name: str, url: str, milliseconds: float, fails_at: int = -1) -> None:
        self.name, self.spec = name, Spec(url, "int8", "m")
        self.windows: dict[str, list[Window]] = {load: [] for load in compare.LOADS}
        self.loads: list[Load] = []
        self._seconds, self._left = milliseconds / 1e3, fails_at
        self.load = partial(compare.Target.load, self)  # type: ignore[arg-type]

    def measure(self, name: str, load: Load) -> Window:
        self._left -= 1
        if not self._left:
            raise PeerError("it died")
        self.loads.append(load)
        count = 100
        return Window(np.full(count, self._seconds), np.zeros(count), count, 10 * count, count * self._seconds)


def test_a_comparison_and_its_rows(tmp_path: Path) -> None:
    ours, engine = Asked("distilrt", "http://a:1", 4.0), Asked("distilrt engine", "distilrt", 3.0)
    theirs, dies = Asked("onnx-threads", "http://a:2", 8.0), Asked("pipeline", "http://a:3", 8.0, fails_at=5)
    targets: Any = [ours, engine, theirs, dies]
    found: dict[Any, Any] = {}
    compare.measure(targets, compare.QUICK, "p99=250ms", lambda *_: None, found)
    peaks = {each.name: row for each, row in found.items()}
    assert [each.name for each in targets] == ["distilrt", "distilrt engine", "onnx-threads"]
    assert list(peaks) == ["distilrt", "onnx-threads"]
    assert [load.scenario for load in ours.loads[:5]] == ["single"] * 4 + ["flood"]
    assert [load.scenario for load in engine.loads] == ["single"] * 4 + ["offline"]
    assert {load.seconds for load in ours.loads if load.rate} == {compare.QUICK.probe, compare.QUICK.retest}

    windows = {each.name: each.windows for each in targets}
    facts = {**report.machine(2), "rounds": 1, "error": 0.03, "probe_s": 3, "retest_s": 6}
    made = []
    for name in peaks:
        server: Any = SimpleNamespace(name=name, kind=KINDS[name], version="1", start_s=0.5, rss_mb=lambda: 200.4)
        made.append(rows.row(server, windows, peaks[name], facts))
    assert (made[0]["p50_16_ms"], made[0]["engine_16_ms"], made[0]["saturated_share"]) == (4, 3, 0.75)
    assert made[1]["saturated_per_s"] == 125
    assert "engine_16_ms" not in made[1]
    assert "1.00" in rows.table(made)

    path = tmp_path / "serving.csv"
    path.write_text("date,server\n2026-01-01,old\n")
    rows.append(path, made)
    rows.append(path, made[:1])
    read = list(csv.DictReader(path.open(newline="")))
    assert [row["server"] for row in read] == ["old", "distilrt", "onnx-threads", "distilrt"]
    assert (read[0]["saturated_share"], read[1]["saturated_share"], read[2]["saturated_share"]) == ("", "0.75", "")
    assert tuple(read[0]) == rows.FIELDS
    path.write_text("date,colour\n")
    with pytest.raises(ValueError, match="has the columns colour"):
        rows.append(path, made)


def test_the_committed_rows_can_be_appended_to() -> None:
    with rows.RESULTS.open(newline="") as file:
        assert set(next(csv.reader(file))) <= set(rows.FIELDS)


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
