"""engine/bench: engines answer alike, take fair turns, wrong ones are not timed, rows say where they were measured."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilrt.bench import artefacts, child, compare, peers, report, roofline, startup, worker, workloads
from distilrt.bench.compare import Engine, Timing
from distilrt.model.config import DistilBertConfig

DISTILRT = Engine("float32", "distilrt")
ALL_ROWS = Engine("float32", "distilrt-all-rows")
TRANSFORMERS = Engine("float32", "transformers")
PEAKS = roofline.Roofline({"float32": 100e9, "bfloat16": None, "int8": None}, 20e9)


@pytest.fixture
def checkpoint(tiny: Callable[..., DistilBertConfig], tmp_path: Path) -> Path:
    return artefacts.make_checkpoint(tmp_path / "checkpoint", tiny(max_position_embeddings=512))


def _timing(engine: Engine, seconds: float, name: str = "1x8") -> Timing:
    workload = workloads.parse(name)
    timing = Timing(workload, engine, "1.0", 1e-6, estimate=seconds)
    timing.turns = [[seconds] * 3 for _ in workload.turns]
    return timing


def test_mixed_lengths() -> None:
    lengths = workloads.mixed_lengths()
    assert lengths[:5].tolist() == [61, 48, 97, 60, 34]
    assert (len(lengths), lengths.sum(), lengths.min(), lengths.max()) == (256, 20_671, 4, 512)
    unsorted, by_length, single = (workloads.parse(f"mixed{kind}") for kind in ("", "-sorted", "-single"))
    assert unsorted.tokens == by_length.tokens == single.tokens == single.padded_tokens == lengths.sum()
    assert unsorted.padded_tokens > 2 * by_length.padded_tokens > 2 * single.padded_tokens
    assert {len(batch) for batch in unsorted.batches} == {32}
    assert [len(workload.turns) for workload in (unsorted, by_length, single)] == [8, 8, 8]
    assert sorted(index for turn in single.turns for index in turn) == list(range(256))
    assert [turn[0] for turn in by_length.turns[:4]] == [2, 5, 0, 3]


def test_flops() -> None:
    """84.93 million operations a token in the linear layers, 18,432 a token and attended token in attention."""
    flops = workloads.parse("2x128").flops(DistilBertConfig())
    assert flops == 2 * 128 * (84_934_656 + 18_432 * 128)
    assert workloads.parse("2x128").flops(DistilBertConfig(), last_layer_rows=128) == flops
    last = 128 * 4 * 768**2 + (4 * 768**2 + 4 * 768 * 3072) + 4 * 128 * 768  # keys and values of all, the rest of one
    assert workloads.parse("2x128").flops(DistilBertConfig(), last_layer_rows=1) == 5 / 6 * flops + 2 * last


@pytest.mark.parametrize("name", ["", "0x8", "8", "mixed-up", "1x8x2"])
def test_unknown_workload(name: str) -> None:
    with pytest.raises(ValueError, match="BATCHxLENGTH"):
        workloads.parse(name)


def test_inputs_are_padded_and_packed_alike() -> None:
    (inputs,) = workloads.make_inputs([[3, 5]], vocab_size=50)
    assert inputs.ragged
    assert inputs.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(inputs.input_ids[0, :3], inputs.sequences[0])
    assert (inputs.input_ids != 0).tolist() == inputs.attention_mask.astype(bool).tolist()


def test_engines_agree_in_one_process(checkpoint: Path) -> None:
    """Padded or packed, ours, the reference and the expected logits are the same numbers."""
    inputs = workloads.make_inputs([[3, 7, 5], [4, 4]], vocab_size=101)
    expected = compare.expected_logits(checkpoint, inputs)
    for engine in (DISTILRT, ALL_ROWS, TRANSFORMERS):
        peer = peers.create(engine.name, engine.dtype)
        peer.load(checkpoint, 1)
        padded = [peer.run(each.input_ids, each.attention_mask) for each in inputs]
        assert compare.disagreement(padded, expected) < 1e-5
        assert compare.disagreement([worker.run(peer, each) for each in inputs], expected) < 1e-5
        assert peer.version
        peer.close()


def test_expected_logits_are_of_the_first_sequences(checkpoint: Path) -> None:
    inputs = workloads.make_inputs([[100, 300], [200, 1], [5]], vocab_size=101)
    assert [len(rows) for rows in compare.expected_logits(checkpoint, inputs)] == [
        2
    ]  # not 600 tokens, nor out of order
    assert [len(rows) for rows in compare.expected_logits(checkpoint, inputs[1:])] == [2, 1]


def test_disagreement() -> None:
    expected = [np.array([[1.0, -2.0]]), np.array([[0.5, 0.0]])]
    actual = [np.array([[1.0, -2.0], [9.0, 9.0]]), np.array([[0.5, 0.1]])]  # only first rows are known
    assert compare.disagreement(actual, expected) == pytest.approx(0.05)
    actual[0][0, 0] = np.nan
    assert not compare.disagreement(actual, expected) <= 1


def test_compare(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run of two engines: one that is not installed is named, one that errs is not timed, the others get rows."""
    monkeypatch.setitem(peers.ENGINES, "missing", (peers.Distilrt, ("float32",)))  # unknown in the worker's process
    said: list[str] = []
    engines = [*compare.choose(["distilrt", "missing", "transformers"], ["float32"])]
    loads = [workloads.parse("1x5"), workloads.parse("3x4")]
    found = compare.Comparison(lambda words, seconds: said.append(words))
    compare.compare(found, checkpoint, engines, loads, num_threads=1, rounds=2)
    assert [(each.engine, each.workload.name) for each in found.timings] == [
        (engine, name) for name in ("1x5", "3x4") for engine in (DISTILRT, TRANSFORMERS)
    ]
    assert all(each.error < 1e-5 and each.quantile(0) > 0 for each in found.timings)
    assert all(len(times) == 2 * each.runs for each in found.timings for times in each.turns)
    (reason,) = found.left_out
    assert reason.startswith("missing float32: its process ended with 1: ValueError: an engine is one of distilrt")
    assert any("missing" in line for line in said)

    made = report.rows(found.timings, DistilBertConfig.from_pretrained(checkpoint), PEAKS, report.machine(1))
    path = tmp_path / "results" / "cpu.csv"
    report.append(path, made[:1])
    report.append(path, made[1:])
    with path.open() as file:
        kept = list(csv.DictReader(file))
    assert [row["engine"] for row in kept] == ["distilrt", "transformers"] * 2
    assert all(row[field] for row in kept for field in ("date", "commit", "cpu", "version", "median_ms", "peak_share"))
    path.write_text("other,columns\n")
    with pytest.raises(ValueError, match="move it away"):
        report.append(path, made)


def test_ctrl_c_leaves_whole_rounds(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes in the sixth turn of two engines: two rounds are complete."""
    turn, calls = worker.Worker.turn, itertools.count()

    def stopped(self: worker.Worker, *given: Any) -> list[float]:
        if len(given) > 1 and next(calls) == 5:
            raise KeyboardInterrupt
        return turn(self, *given)

    monkeypatch.setattr(worker.Worker, "turn", stopped)
    found = compare.Comparison(lambda words, seconds: None)
    loads = [workloads.parse("1x5"), workloads.parse("3x4")]
    with pytest.raises(KeyboardInterrupt):
        compare.compare(found, checkpoint, [DISTILRT, TRANSFORMERS], loads, num_threads=1, rounds=9)
    assert [(each.engine, each.workload.name) for each in found.timings] == [(DISTILRT, "1x5"), (TRANSFORMERS, "1x5")]
    assert all(len(times) == 2 * each.runs for each in found.timings for times in each.turns)


def test_turns_that_not_all_had_do_not_count() -> None:
    whole, part, none = (_timing(DISTILRT, 0.03), _timing(TRANSFORMERS, 0.005), _timing(ALL_ROWS, 1.0))
    part.turns = [[0.005] * (2 * part.runs + 1)]  # two turns, and one run of the third
    assert compare.complete([whole, part]) == [whole, part]
    assert (len(whole.turns[0]), len(part.turns[0])) == (2 * whole.runs, 2 * part.runs)
    none.turns = [[]]
    assert compare.complete([whole, none]) == []
    assert compare.complete([]) == []


def test_wrong_engine_is_not_timed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = compare.expected_logits
    monkeypatch.setattr(compare, "expected_logits", lambda *given: [rows + 0.01 for rows in expected(*given)])
    found = compare.Comparison(lambda words, seconds: None)
    compare.compare(found, checkpoint, [DISTILRT], [workloads.parse("1x5")], num_threads=1, rounds=1)
    assert found.timings == []
    (reason,) = found.left_out
    assert "distilrt float32 on 1x5: its answers are off by" in reason


@pytest.mark.parametrize(("names", "dtypes"), [(["distilrt", "x"], ["float32"]), (["distilrt"], ["float12"])])
def test_unknown_choice(names: list[str], dtypes: list[str]) -> None:
    with pytest.raises(ValueError, match="choose from"):
        compare.choose(names, dtypes)


def test_schedule_alternates() -> None:
    """Every engine runs each turn before any runs the next, and each is first as often as the others."""
    assert list(compare.schedule("abc", 4)) == [
        (name, turn) for turn, names in enumerate(["abc", "bca", "cab", "abc"]) for name in names
    ]


def test_fit_keeps_the_best() -> None:
    slow, fast = Engine("float32", "openvino"), Engine("float32", "onnxruntime")
    costs: dict[Engine, float] = {DISTILRT: 2.0, fast: 1.0, slow: 4.0, TRANSFORMERS: 8.0, Engine("int8", "ct2"): 1.0}
    assert compare.fit(costs, time_box=160) == (list(costs), 10)
    assert compare.fit(costs, time_box=1e6) == (list(costs), compare.MOST_TURNS)
    assert compare.fit(costs, time_box=24)[0] == [e for e in costs if e != TRANSFORMERS]
    kept, turns = compare.fit(costs, time_box=1)
    assert (kept, turns) == ([e for e in costs if e not in (slow, TRANSFORMERS)], compare.LEAST_TURNS)
    costs[slow] = 1.1
    assert compare.fit(costs, time_box=1)[0] == [e for e in costs if e != TRANSFORMERS]  # too close to tell
    assert compare.fit({}, time_box=1) == ([], 0)


def test_quantiles_add_up_over_the_turns_that_came() -> None:
    timing = _timing(DISTILRT, 0.5, "mixed")
    assert (timing.quantile(50), timing.measured.tokens, timing.rounds) == (4.0, 20_671, 3)
    timing.turns[2:] = [[]] * 6
    assert (timing.quantile(50), timing.rounds) == (1.0, 0.75)
    assert timing.measured.batches == (timing.workload.batches[2], timing.workload.batches[5])


def test_rows_and_table() -> None:
    other = Engine("float32", "openvino")
    timings = [
        _timing(DISTILRT, 0.010),
        _timing(ALL_ROWS, 0.016),
        _timing(TRANSFORMERS, 0.040),
        _timing(other, 0.020),
        _timing(other, 9, "1x32"),
    ]
    made = report.rows(timings, DistilBertConfig(), PEAKS, report.machine(2))
    assert [row["best_peer_ratio"] for row in made] == [2.0, 1.25, 0.5, 1.0, 1.0]
    for row, rows in ((made[0], 1), (made[2], None)):
        flops = workloads.parse("1x8").flops(DistilBertConfig(), last_layer_rows=rows)
        assert row["peak_share"] == pytest.approx(flops / row["median_ms"] * 1e3 / 100e9, abs=1e-3)
    assert made[0]["read_share"] == pytest.approx(4 * 42_467_328 / 0.010 / 20e9, abs=1e-3)
    assert made[4]["read_share"] is None
    assert tuple(made[0]) == report.FIELDS
    lines = [line.split() for line in report.table(made).splitlines() if line]
    assert [line[2] if line[0] == "1x8" else line[0] for line in lines[1:5]] == [
        "distilrt",
        "distilrt-all-rows",
        "openvino",
        "transformers",
    ]


def test_roofline(tmp_path: Path) -> None:
    """Positive where the CPU has the instructions; the compiled loops are kept."""
    flags = report.machine(1)["isa"].split()
    found = roofline.measure(1, tmp_path)
    (library,) = tmp_path.iterdir()
    before = library.stat().st_mtime_ns
    assert found.read_bandwidth is not None
    assert found.read_bandwidth > 1e8
    for dtype, flag in (("float32", "avx2"), ("bfloat16", "avx512_bf16"), ("int8", "avx512_vnni")):
        rate = found.flops[dtype]
        assert (rate is not None) == (flag in flags)
        assert rate is None or rate > 1e8
    again = roofline.measure(1, tmp_path).better(found)
    assert again.read_bandwidth is not None
    assert again.read_bandwidth >= found.read_bandwidth
    assert library.stat().st_mtime_ns == before


def test_roofline_without_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no-such-compiler"):
        roofline.measure(1, tmp_path)


def test_startup(checkpoint: Path) -> None:
    found = startup.measure("distilrt", "float32", checkpoint, 1, times=1)
    assert found.seconds is not None
    assert found.peak_mb is not None
    assert 0 < found.seconds < 60
    assert 10 < found.peak_mb < 2000
    missing = startup.measure("nothing", "float32", checkpoint, 1)
    assert "an engine is one of" in missing.reason
    assert "nothing" in startup.table([found, missing])
    (row,) = startup.rows([found, missing], dict.fromkeys(startup.FIELDS[:6], ""))
    assert tuple(row) == startup.FIELDS
    assert row["times"] == 1


def test_a_child_that_was_left_behind_answers_no_more(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would say next answers the question that Ctrl-C cut short."""

    def stopped(*given: Any) -> Any:
        raise KeyboardInterrupt

    with worker.Worker("distilrt", "float32", checkpoint, 1) as served:
        with monkeypatch.context() as patched:
            patched.setattr("select.select", stopped)
            with pytest.raises(KeyboardInterrupt):
                served.idle_load()
        with pytest.raises(child.PeerError, match="was ended by Ctrl-C"):
            served.idle_load()


def test_worker_reports_a_dead_engine(checkpoint: Path) -> None:
    with worker.Worker("distilrt", "float32", checkpoint, 1) as served:
        with pytest.raises(child.PeerError, match="IndexError"):
            served.answer(0)
        served.set_inputs(workloads.make_inputs([[4]], 101))
        assert served.idle_load() < 1
        process: Any = served._process
        process.kill()
        with pytest.raises(child.PeerError, match="ended with -9"):
            served.answer(0)
