"""engine/bench/{scenarios,turns,peak}.py: plans are carried out, wrong engines get no speed, failing ones leave the
others alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distilrt.bench import answers, findings, roofline, samples, scenarios, turns
from distilrt.bench.findings import Findings
from distilrt.bench.load import Load
from distilrt.bench.scenarios import Plan
from distilrt.bench.session import Facts, PeerError
from distilrt.bench.statistics import Window, parse_slo
from distilrt.bench.targets import Spec

ONE, TWO, EXACT = (Spec(name, "float32", "model", backend=name) for name in ("one", "two", "reference"))
Behaviour = Callable[[Load], Window]


def window(milliseconds: float, wanted: Load, failed: str = "") -> Window:
    count = max(wanted.count, int(wanted.rate * wanted.seconds))
    failures = Counter({failed: 1} if failed else {})
    return Window(np.full(count, milliseconds / 1e3), np.zeros(count), count, 10 * count,
                  count * milliseconds / 1e3, failures)  # fmt: skip


class Sessions:
    """Stands in for processes; `behaviour` of a target by name says how fast it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **behaviour: Behaviour) -> None:
        self.asked: list[tuple[str, Load]] = []
        self.offset: dict[str, Any] = {}
        sessions = self

        class Session:
            start_s = 0.5

            def __init__(self, spec: Spec, given: samples.Samples) -> None:
                if spec.backend not in behaviour and spec.backend != "reference":
                    raise PeerError("it is not there")
                self._name, self.facts = spec.backend, Facts("float32", "1.0")

            def prepare(self, given: samples.Samples) -> Facts:
                if given.name == "hard" and self._name == "two":
                    raise PeerError("too hard")
                return self.facts

            def answers(self, indices: list[int], *, of_all: bool = False) -> list[answers.Answer]:
                return [answers.Answer(np.array([1.0, 2.0]) + sessions.offset.get(self._name, 0), "A") for _ in indices]

            def window(self, wanted: Load) -> Window:
                sessions.asked.append((self._name, wanted))
                return behaviour[self._name](wanted)

            def peak_mb(self) -> float:
                return 100.0

            def close(self) -> None: ...

            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None: ...

        monkeypatch.setattr(scenarios, "Session", Session)
        monkeypatch.setattr(scenarios, "_shares", lambda *given: {"peak_share": 0.5})
        monkeypatch.setattr(roofline, "measure", lambda *_: roofline.Roofline({}, 0.0))


def given(name: str = "easy") -> samples.Samples:
    return samples.Samples(name, "text-classification", {}, ("a", "b"), (4, 6), 2)


def run(plan: Plan, specs: list[Spec], loads: list[samples.Samples] | None = None) -> Findings:
    found = Findings({"threads": 1}, plan.describe())
    scenarios.run([specs], loads or [given()], plan, found, exact_model="m", say=lambda *_: None)
    return found


def test_those_far_behind_the_fastest_peer_have_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first target is beside all others, and not one of them; what a neighbour did in a round counts for nobody."""
    times = iter([6.0, 6.0, *[4.0] * 100])
    sessions = Sessions(monkeypatch, one=lambda wanted: window(1, wanted), two=lambda wanted: window(4, wanted),
                        three=lambda wanted: window(9, wanted),
                        four=lambda wanted: window(next(times), wanted))  # fmt: skip
    others = [Spec(name, "float32", "m", backend=name) for name in ("three", "four")]
    found = run(Plan("single", duration=3.0, behind=1.4), [ONE, TWO, *others])
    assert [(row["target"], len(row["rounds_ms"]), row["steady"]) for row in found.rows] == [
        ("one", 60, True), ("two", 60, True), ("three", turns.JUDGED, None), ("four", 60, True)]  # fmt: skip
    assert found.rows[2]["ratio"] == pytest.approx(1 / 9, abs=1e-4)
    assert len([name for name, _ in sessions.asked if name == "three"]) == 1 + turns.JUDGED  # with the warm-up


def test_turns_alternate_until_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(monkeypatch, one=lambda wanted: window(5, wanted), two=lambda wanted: window(7, wanted))
    found = run(Plan("single", duration=3.0, count=30), [ONE, TWO])
    names = [name for name, load in sessions.asked if load.count == 1]
    assert names == ["one", "two", "two", "one"] * 30
    assert [(row["target"], row["p50_ms"], row["steady"], row["valid"]) for row in found.rows] == [
        ("one", 5, True, True), ("two", 7, True, True)]  # fmt: skip
    assert found.workloads[0]["padding"] == pytest.approx(1 - 10 / 12, abs=1e-4)
    row = found.rows[0]
    assert [row[key] for key in ("queries", "start_s", "peak_mb", "max_difference", "agreement")] == [
        60,
        0.5,
        100,
        0,
        1,
    ]
    loads = [load for name, load in sessions.asked if name == "one" and load.count == 1]
    assert [load.seed for load in loads] == list(range(60))
    assert {(load.seconds, load.lead) for load in loads} == {(turns.SHORTEST, turns.LEAD)}
    assert [row["ratio"] for row in found.rows] == [1, pytest.approx(5 / 7, abs=1e-4)]
    assert found.rows[1]["rounds_ms"] == [7.0] * 60


def test_restless_targets_are_measured_longer_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(1, 1000))
    sessions = Sessions(monkeypatch, one=lambda wanted: window(1.02 ** next(times), wanted))
    (row,) = run(Plan("single", duration=3.0), [ONE]).rows
    assert not row["steady"]
    assert len(sessions.asked) == 1 + 20 * turns.MOST_WINDOWS


def test_ratios_that_are_not_known_are_measured_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5.0] + [4.0, 6.5] * 500)
    sessions = Sessions(
        monkeypatch, one=lambda wanted: window(5, wanted), two=lambda wanted: window(next(times), wanted)
    )
    _, row = run(Plan("single", duration=1.0), [ONE, TWO]).rows
    assert row["steady"]
    assert len(sessions.asked) == 2 * (1 + 6 * turns.MOST_WINDOWS)
    assert row["ratio_low"] < row["ratio"] < row["ratio_high"]


@pytest.mark.parametrize(("load", "query_s", "rounds"), [
    (Load("single", 10 / 3, 1), 0.01, 66), (Load("single", 20, 1), 0.01, 200), (Load("multi", 10 / 3, 1), 0.2, 5),
    (Load("offline", 10 / 3, 1), 5.0, 1), (Load("server", 10 / 3, 1), 0.01, 1), (Load("server", 10, 1), 0.01, 5),
    (Load("single", 0.04, 1), 0.01, 1),
])  # fmt: skip
def test_rounds_are_short_but_mean_something(load: Load, query_s: float, rounds: int) -> None:
    assert turns.rounds(load, query_s) == rounds


def test_ctrl_c_leaves_the_rounds_that_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(100))

    def stopped(wanted: Load) -> Window:
        if next(calls) == 8:  # a warm-up and seven rounds later
            raise KeyboardInterrupt
        return window(7, wanted)

    Sessions(monkeypatch, one=lambda wanted: window(5, wanted), two=stopped)
    plan = Plan("single", duration=3.0, count=30)
    found = Findings({"threads": 1}, plan.describe())
    with pytest.raises(KeyboardInterrupt):
        scenarios.run([[ONE, TWO]], [given()], plan, found, exact_model="m", say=lambda *_: None)
    assert [(row["target"], row["rounds_ms"], row["steady"]) for row in found.rows] == [
        ("one", [5.0] * 7, False), ("two", [7.0] * 7, False)]  # fmt: skip


def test_wrong_answers_get_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(monkeypatch, one=lambda wanted: window(5, wanted), two=lambda wanted: window(5, wanted))
    sessions.offset["two"] = 0.1
    found = run(Plan("single"), [ONE, TWO])
    assert [row["target"] for row in found.rows] == ["one"]
    (reason,) = found.left_out
    assert "two float32 on easy: its answers are off by 5.0e-02" in reason
    assert {name for name, _ in sessions.asked} == {"one"}


def test_failing_targets_leave_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(100))

    def fails(wanted: Load) -> Window:
        if next(calls) == 2:
            raise PeerError("it died")
        return window(5, wanted)

    Sessions(monkeypatch, one=lambda wanted: window(5, wanted), two=fails)
    found = run(Plan("single"), [TWO, ONE, Spec("gone", "int8", "m", backend="gone")])
    assert [row["target"] for row in found.rows] == ["one"]
    assert found.left_out == ["gone int8: it is not there", "two float32 (single): it died"]


def test_forms_that_suit_no_workload_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    Sessions(monkeypatch, one=lambda wanted: window(5, wanted))
    fixed = Spec("openvino", "float32", "m", backend="gone", form="static")
    found = run(Plan("offline"), [ONE, fixed])
    assert ([row["target"] for row in found.rows], found.left_out) == (["one"], [])


def test_a_workload_that_a_target_cannot_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    Sessions(monkeypatch, one=lambda wanted: window(5, wanted), two=lambda wanted: window(5, wanted))
    found = run(Plan("multi"), [ONE, TWO], [given(), given("hard")])
    named = [(row["workload"], row["target"]) for row in found.rows]
    assert named == [("easy", "one"), ("easy", "two"), ("hard", "one")]
    assert found.left_out == ["two float32 on hard: too hard"]


def test_no_answers_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Window(np.zeros(0), np.zeros(0), 0, 0, 1.0, Counter({"HTTP 503": 4}))
    Sessions(monkeypatch, one=lambda wanted: nothing)
    found = run(Plan("single"), [ONE])
    assert (found.rows, found.left_out) == ([], ["one float32 (multi): no query was answered: HTTP 503"])


def test_probabilities_are_compared_but_for_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(monkeypatch, one=lambda wanted: window(5, wanted), two=lambda wanted: window(5, wanted))
    sessions.offset |= {"one": 5.0, "two": np.array([0.0, 0.5])}
    urls = [Spec(f"http://{name}", "float32", "m", backend=name, wire="infinity") for name in ("one", "two")]
    found = run(Plan("single", duration=0.1), urls)
    assert [(row["target"], row["max_difference"]) for row in found.rows] == [("one infinity", 0)]
    assert "its answers are off by" in found.left_out[0]


@pytest.mark.parametrize(("given", "words"), [
    ({"scenario": "x"}, "a scenario is one of"), ({"scenario": "server"}, "needs --rate"),
    ({"scenario": "single", "rates": (1.0,)}, "needs --rate"), ({"scenario": "peak"}, "needs --slo"),
    ({"scenario": "multi", "slo": parse_slo("p9=1s")}, "needs --slo"),
    ({"scenario": "multi", "duration": 0}, "above 0"),
    ({"scenario": "server", "rates": (0.0,)}, "above 0"), ({"scenario": "multi", "count": 0}, "above 0"),
    ({"scenario": "multi", "duration": float("nan")}, "above 0"),
])  # fmt: skip
def test_wrong_plans(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Plan(**given)


@pytest.mark.parametrize("measured", [(1e12, 2e12), (2e12, 1e12)])
def test_the_higher_of_two_peaks_counts(measured: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    Sessions(monkeypatch, one=lambda wanted: window(5, wanted))
    monkeypatch.setattr(scenarios, "_shares", lambda row, spec, given, most: {"peak_gflops": most.flops["float32"]})
    peaks = iter(measured)
    monkeypatch.setattr(roofline, "measure", lambda *_: roofline.Roofline({"float32": next(peaks)}, 0.0))
    found = run(Plan("single", duration=3.0, count=30), [ONE])
    assert [row["peak_gflops"] for row in found.rows] == [2e12]


def test_shares_of_peaks(classifier: str) -> None:
    made = samples.make("1x16", classifier)
    row = {"dtype": "float32", "version": "1 cpu", "samples_per_s": 1000.0, "batch": 1, "scenario": "single",
           "p50_ms": 1.0}  # fmt: skip
    most = roofline.Roofline({"float32": 1e12}, 1e9)
    specs = [Spec(name, "float32", classifier, form=form)
             for name, form in (("distilrt", ""), ("distilrt", "all-rows"), ("onnxruntime", "session"))]  # fmt: skip
    ours, whole, peer = (scenarios._shares(row, spec, made, most) for spec in specs)
    assert 0 < ours["peak_share"] < whole["peak_share"] == peer["peak_share"] < 1
    assert (ours["peak_gflops"], ours["read_share"]) == (1000, whole["read_share"])
    assert "read_share" not in scenarios._shares(
        row | {"batch": 8}, Spec("distilrt", "float32", classifier), made, most
    )
    assert scenarios._shares(row, Spec("http://a", "float32", classifier), made, most) == {}
    assert {"peak_share", "read_share"} < set(findings.COLUMNS)
