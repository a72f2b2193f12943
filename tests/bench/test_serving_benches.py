"""benches/serving: what a soak must notice. The benches themselves start real servers: make bench-serving, soak."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from benches.serving import soak
from distilrt.bench.load import Load


def test_memory_that_grows() -> None:
    assert soak.flat([50, 99, 100, 100, 101, 100]) == []
    assert soak.flat([100]) == []
    (line,) = soak.flat([50, 60, 100, 100, 120, 130])
    assert "grew" in line


def test_answers_are_counted_and_compared(server: Any, classifier: str) -> None:
    server.rss_mb, server.dtype = (lambda: 100.0), "int8"

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


@pytest.mark.parametrize("plan", [soak.steady, soak.overload])
def test_plans(server: Any, classifier: str, plan: Any) -> None:
    """Against a server that takes everything: it never refuses, which an overload must notice."""
    server.rss_mb, server.dtype = (lambda: 100.0), "int8"
    broken = soak.measure(server, Path(classifier), plan(server, 0.6))
    assert not any("memory" in line or "outcomes" in line for line in broken)
    assert any("nothing was refused" in line for line in broken) == (plan is soak.overload)
