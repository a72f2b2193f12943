"""engine/bench/verbs.py: the sub-verbs of `distilrt bench`, and what Ctrl-C leaves of them."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from distilrt.__main__ import main
from distilrt.bench import artefacts, findings, peers, roofline, samples, scenarios, verbs
from distilrt.model.config import DistilBertConfig
from distilrt.text.tokenizer import DistilBertTokenizer
from tests.bench.conftest import read


@pytest.fixture(autouse=True)
def quick(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are tiny, and peaks known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config: DistilBertConfig = tiny()
    monkeypatch.setattr(verbs, "make_checkpoint", partial(artefacts.make_checkpoint, config=config))
    monkeypatch.setattr(roofline, "measure", lambda threads, cache: roofline.Roofline({"float32": 1e9}, 1e9))


def bench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments])
    return int(stop.value.code or 0)


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., list[dict[str, str]]]:
    """Runs a verb of little work in float32, and reads the rows that it records."""

    def run(file: str, verb: str, *arguments: str) -> list[dict[str, str]]:
        little = ["--dtypes", "float32", "--threads", "1", "--record", "--results", str(tmp_path)]
        assert bench(verb, *little, *arguments) == 0
        with (tmp_path / file).open(newline="") as rows:
            return list(csv.DictReader(rows))

    return run


ALONE = ["--peers", "distilrt", "--workloads", "1x8", "--duration", "0.1"]


def test_compare(recorded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From token ids to logits, each engine in forms that suit; rows are those of every bench, and are recorded."""
    page = tmp_path / "page.html"
    rows = recorded("cpu.csv", "compare", "--peers", "distilrt,transformers", "--workloads", "1x8,mixed", "--duration",
                    "0.1", "--html", str(page))  # fmt: skip
    printed = capsys.readouterr()
    assert "transformers sdpa float32" in printed.out
    assert "answers in float32" in printed.err
    assert [(row["target"], row["form"], row["workload"], row["scenario"]) for row in rows] == [
        (target, form, workload, scenario)
        for workload, scenario in (("1x8", "multi"), ("mixed", "offline"))
        for target, form in (("distilrt", "first-rows"), ("distilrt", "all-rows"), ("transformers", "sdpa"))
    ]
    assert max(float(row["max_difference"]) for row in rows) < 1e-4
    assert min(float(row["peak_share"]) for row in rows) > 0
    assert [bool(row["read_share"]) for row in rows] == [True] * 3 + [False] * 3
    assert "<svg" in page.read_text()


def test_compare_trained_weights(
    recorded: Any, tmp_path: Path, sentence_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On English, with rows of their own, a BERT's for every engine; another encoder's classifier is not this one's."""
    more = ["--peers", "distilrt,transformers", "--model", str(sentence_encoder)]
    rows = recorded("trained.csv", "compare", *ALONE, *more)
    assert [0 < float(row["mean_difference"]) < 1e-5 for row in rows] == [True] * 3
    made = artefacts.classifier_of(str(sentence_encoder))
    assert [made] == list(artefacts.cache_folder().glob("models/*"))
    ids = samples.make_ids("1x8", made).inputs[0]
    words = DistilBertTokenizer.from_pretrained(made).convert_ids_to_tokens(list(ids))
    assert (words[0], words[-1], len(words)) == ("[CLS]", "[SEP]", 8)
    assert bench("compare", *ALONE, "--model", str(tmp_path)) == 2
    assert "config.json" in capsys.readouterr().err


def test_compare_beside_busy_processes(recorded: Any) -> None:
    """Rows say beside how many; the processes are gone afterwards."""
    rows = recorded("contended.csv", "compare", *ALONE, "--busy", "0", "--busy", "1")
    forms = ("first-rows", "all-rows")
    assert [(row["busy"], row["form"]) for row in rows] == [(count, form) for count in "01" for form in forms]
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not any("os.getppid" in Path(f"/proc/{child}/cmdline").read_text() for child in children)


def test_what_ctrl_c_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(specs: Any, loads: Any, plan: Any, found: findings.Findings, **given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scenarios, "run", stopped)
    file = tmp_path / "found.json"
    assert bench("compare", *ALONE, "--record", "--results", str(tmp_path), "--json", str(file)) == 130
    assert "broken off" in capsys.readouterr().out
    assert not (tmp_path / "cpu.csv").exists()
    assert not read(file).complete


@pytest.mark.parametrize("words", [["--peers", "x"], ["--dtypes", "float12"], ["--workloads", "8"]])
def test_wrong_choices(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert bench("compare", "--workloads", "1x8", *words) == 2
    said = capsys.readouterr().err
    assert "found" in said
    assert words[1] in said


def test_distillation(recorded: Any, monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
    """Each model's answers are compared with its own in float32."""

    def made(folder: Path, config: DistilBertConfig | None = None) -> Path:
        return artefacts.make_checkpoint(folder, tiny(n_layers=4 if config else 2))

    monkeypatch.setattr(verbs, "make_checkpoint", made)
    rows = recorded("distillation.csv", "distillation", "--workloads", "1x8", "--duration", "0.1")
    assert [row["target"] for row in rows] == ["DistilBERT", "BERT-base"]
    assert all(float(row["max_difference"]) < 1e-4 and float(row["p50_ms"]) > 0 for row in rows)


def test_startup(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form that a user gets, in processes of their own; an engine that cannot is named."""
    monkeypatch.setitem(peers.ENGINES, "nothing", peers.ENGINES["distilrt"])
    (row,) = recorded("startup.csv", "startup", "--peers", "distilrt,nothing", "--times", "1")
    assert [row[key] for key in ("target", "form", "queries", "workload")] == ["distilrt", "first-rows", "1", "1x16"]
    assert 0 < float(row["start_s"]) < 60
    assert 10 < float(row["peak_mb"]) < 2000


def test_peaks_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive where the CPU has the instructions; the compiled loops are kept."""
    monkeypatch.undo()
    flags = findings.facts(1)["isa"].split()
    found = roofline.measure(1, tmp_path)
    (library,) = tmp_path.iterdir()
    before = library.stat().st_mtime_ns
    for dtype, flag in (("float32", "avx2"), ("bfloat16", "avx512_bf16"), ("int8", "avx2")):
        assert (dtype in found.flops) == (flag in flags)
    assert all(rate > 1e8 for rate in (*found.flops.values(), found.read_bandwidth))
    roofline.measure(1, tmp_path)
    assert library.stat().st_mtime_ns == before
    monkeypatch.setenv("CC", "no-such-compiler")
    assert roofline.measure(1, tmp_path / "other") == roofline.Roofline({}, 0.0)


def test_arithmetic() -> None:
    config = DistilBertConfig()
    hidden, inner, n = 768, 3072, 128
    layer = n * 2 * (4 * hidden**2 + 2 * hidden * inner) + 4 * n * n * hidden
    assert roofline.flops(config, [n, n]) == 2 * 6 * layer
    less = roofline.flops(config, [n], last_layer_rows=1)
    rest = 2 * (2 * hidden**2 + 2 * hidden * inner) + 4 * n * hidden
    assert less == 5 * layer + n * 4 * hidden**2 + rest
