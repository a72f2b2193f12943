"""engine/bench/session.py: a target in its process is loaded, answers, and is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distilrt.bench import session
from distilrt.bench.load import Load
from distilrt.bench.samples import Samples
from distilrt.bench.session import PeerError
from distilrt.bench.targets import Spec


def test_an_engine(classifier: str, queries: Samples) -> None:
    with session.Session(Spec("distilrt", "float32", classifier, backend="cpu", threads=1), queries) as target:
        assert target.facts.dtype == "float32"
        assert target.facts.version.split()[1] == "cpu"
        assert target.start_s
        first_and_second = target.answers([0, 1])
        for one, other in zip(first_and_second, target.answers([0, 1]), strict=True):
            np.testing.assert_array_equal(one.numbers, other.numbers)
        for scenario in ("single", "server", "offline"):
            window = target.window(Load(scenario, 0.0, 5, rate=500.0))
            assert len(window.latencies) == 5
            assert window.samples == (5 * len(queries.inputs) if scenario == "offline" else 5)
        (among,) = target.answers([1], of_all=True)
        np.testing.assert_allclose(among.numbers, first_and_second[1].numbers, atol=1e-5)
        assert 10 < (target.peak_mb() or 0) < 4000


def test_what_cannot_be_loaded(classifier: str, queries: Samples) -> None:
    with pytest.raises(PeerError, match="int3"):
        session.Session(Spec("distilrt", "int3", classifier), queries)
    with pytest.raises(PeerError, match="Connection refused"):
        session.Session(Spec("http://127.0.0.1:1", "auto", classifier), queries)


def test_a_child_that_was_left_behind_answers_no_more(
    classifier: str, queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would say next answers the question that Ctrl-C cut short."""

    def stopped(*given: Any) -> Any:
        raise KeyboardInterrupt

    with session.Session(Spec("distilrt", "float32", classifier, threads=1), queries) as served:
        with monkeypatch.context() as patched:
            patched.setattr("multiprocessing.connection.Connection.poll", stopped)
            with pytest.raises(KeyboardInterrupt):
                served.answers([0])
        with pytest.raises(PeerError, match="was ended by Ctrl-C"):
            served.answers([0])
    with session.Session(Spec("distilrt", "float32", classifier, threads=1), queries) as served:
        process: Any = served._process
        process.kill()
        with pytest.raises(PeerError, match="ended with -9"):
            served.answers([0])
