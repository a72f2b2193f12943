"""Logs as lines of JSON."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2

from distilrt.server.logs import JsonLines


def test_a_line_for_each_request(folder_of: Callable[..., Path]) -> None:
    folder = folder_of("DistilBertForMaskedLM")
    command = [sys.executable, "-m", "distilrt", "serve", "--port", "0", "--threads", "1", "--drain-delay", "0",
               "--log-format", "json", "--model", f"masks={folder}"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            address = process.stderr.readline().split()[-1]
            while httpx2.get(f"{address}/readyz").status_code != 200:
                pass
            assert httpx2.post(f"{address}/", json={"inputs": "[MASK] is."}).status_code == 200
            assert httpx2.post(f"{address}/embed", content=b"{").status_code == 400
        finally:
            process.terminate()
        lines = [json.loads(line) for line in process.stderr]
    answered, refused = (line for line in lines if line["method"] == "POST")
    assert (answered["route"], answered["status"], answered["tokens"]) == ("/", 200, 5)
    parts = [answered[f"{name}_seconds"] for name in ("tokenize", "queue", "compute")]
    assert 0 < sum(parts) <= answered["seconds"] + 1e-5
    assert (refused["route"], refused["status"]) == ("/embed", 400)
    assert "tokens" not in refused
    assert {line["logger"] for line in lines} == {"distilrt.server.requests"}


def test_errors_are_in_the_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "it %s", ("failed",), sys.exc_info())
    line = JsonLines().format(record)
    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["level"], fields["logger"], fields["message"]) == ("ERROR", "x", "it failed")
    assert "ValueError: two\nlines" in fields["error"]
    assert fields["time"].endswith("Z")
