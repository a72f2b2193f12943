"""engine/bench/command.py: `distilrt bench` from arguments to files, its errors, and what Ctrl-C leaves."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from distilrt.__main__ import main
from tests.bench.conftest import read


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def bench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments])
    return int(stop.value.code or 0)


def test_everyday_form(classifier: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "html")}
    given = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    code = bench("--model", classifier, "--scenario", "server", "--rate", "50", "--rate", "100", "--duration",
                 "0.3", "--count", "9", "--threads", "1", "--workload", "queries", "--png", str(tmp_path / "png"),
                 *given)  # fmt: skip
    assert code == 0
    printed = capsys.readouterr()
    assert "distilrt float32" in printed.out
    assert printed.err == ""
    found = read(files["json"])
    assert found.complete
    assert [(row["target"], row["rate"], row["agreement"]) for row in found.rows] == [
        ("distilrt", 50, 1),
        ("distilrt", 100, 1),
    ]
    assert all(row["queries"] >= 9 and row["max_difference"] < 1e-3 for row in found.rows)
    assert len(list(csv.DictReader(files["csv"].open()))) == 2
    assert files["html"].read_text().startswith("<!doctype html>")
    assert list((tmp_path / "png").glob("*.png"))


def test_engines_and_servers_in_one_run(classifier: str, server: Any, tmp_path: Path) -> None:
    """The server answers nonsense: it has no row, and the code is 1."""
    file = tmp_path / "out.json"
    names = ("distilrt", "distilrt:int8", server.url)
    targets = [word for name in names for word in ("--target", name)]
    code = bench("--model", classifier, "--scenario", "multi", "--duration", "0.1", "--count", "3", "--threads", "1",
                 "--workload", "4x8", "--dtype", "float32", "--json", str(file), *targets)  # fmt: skip
    found = read(file)
    assert [row["dtype"] for row in found.rows] == ["float32", "int8"]
    assert any("off by" in line and "127.0.0.1" in line for line in found.left_out)
    assert code == 1


def test_packed_model(classifier: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed, file = str(tmp_path / "packed"), tmp_path / "out.json"
    with suppress(SystemExit):
        main(["pack", classifier, packed])
    assert bench("--model", packed, "--duration", "0.1") == 2
    assert "--against CHECKPOINT" in capsys.readouterr().err
    assert bench("--model", packed, "--against", classifier, "--duration", "0.1", "--json", str(file)) == 0
    (row,) = read(file).rows
    assert row["dtype"] == "int8"


REFUSED = [
    (["--scenario", "x"], "a scenario is one of"), (["--scenario", "server", "--rate", "a"], "--rate"),
    (["--scenario", "peak", "--slo", "20"], "as in p99=20ms"), (["--format", "xml"], "--format must be one of"),
    (["--target", "nope"], "a target is distilrt"), (["--workload", "8"], "BATCHxLENGTH"),
    (["--input", "EMPTY"], "has no text"), (["--input", "./nowhere"], "nowhere"),
    (["--input", "EMPTY", "--workload", "mixed"], "not both"), (["--json", "./nowhere/x"], "there is no folder"),
    (["--target", "distilrt", "--target", "distilrt"], "named twice"), (["--duration", "x"], "--duration"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refused(
    classifier: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    assert bench("--model", classifier, *(str(empty) if word == "EMPTY" else word for word in arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in " ".join(printed.err.replace("│", " ").split())
    assert "Traceback" not in printed.err


def test_ctrl_c_leaves_a_valid_report(classifier: str, tmp_path: Path) -> None:
    """Stopped while the second rate is measured, which would take an hour."""
    file, page = tmp_path / "out.json", tmp_path / "out.html"
    words = [sys.executable, "-m", "distilrt", "bench", "--model", classifier, "--scenario", "server",
             "--workload", "1x8", "--threads", "1", "--rate", "1000", "--rate", "0.001", "--duration", "0.1",
             "--count", "30", "--json", str(file), "--html", str(page)]  # fmt: skip
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        progress = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        end = time.monotonic() + 60
        while (
            time.monotonic() < end and process.poll() is None
        ):  # until the target's process alone is left, for a while
            time.sleep(3)
            if len(progress.read_text().split()) == 1:
                break
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not read(file).complete
    assert "broken off" in out
    assert "Broken off" in page.read_text()
    assert "Traceback" not in err
