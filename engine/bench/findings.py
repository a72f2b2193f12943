"""What a benchmark found, complete or not: facts of the machine and a row for each target, workload and rate; as JSON
and CSV, and appended to the files of committed rows. It measures nothing."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from distilrt import __version__
from distilrt.errors import InvalidParameter
from distilrt.model.config import DistilBertConfig

Row = dict[str, Any]
VERSION = 3  # of the JSON lines
_LIBRARIES = ("numpy", "tokenizers", "torch", "triton", "transformers", "onnxruntime", "openvino", "ctranslate2")
# Columns of the CSV; the first ones say what was measured, the others what came out.
COLUMNS = (
    "target", "form", "dtype", "version", "scenario", "workload", "mean_tokens", "padding", "batch", "rate", "slo",
    "busy", "valid", "steady", "ratio", "ratio_low", "ratio_high", "queries", "failed", "seconds", "samples_per_s",
    "tokens_per_s", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "p99.9_ms", "mean_ms", "max_ms", "lag_p99_ms",
    "saturated_per_s", "saturated_tokens_per_s", "peak_gflops", "peak_share", "read_share", "start_s", "peak_mb",
    "max_difference", "mean_difference", "cosine", "agreement",
)  # fmt: skip
_FACTS = ("date", "commit", "model", "cpu", "isa", "threads", "affinity", "load")
ISA_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")


@dataclass(slots=True)
class Findings:
    """All of one run.

    Attributes:
        facts: of machine and software.
        plan: of what was to be measured.
        workloads: of each, `Samples.describe`.
        rows: of each thing measured; the columns are `COLUMNS`, and `rounds_ms`, a time for each turn, or the `probes`
            of a peak search. `ratio` is how many times as fast as the run's first target, with its interval of 95 %.
        left_out: in words, what was not measured and why.
        complete: False while measuring, and of a run that was broken off.
    """

    facts: Row
    plan: Row
    workloads: list[Row] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    complete: bool = False

    def to_json(self) -> str:
        """JSON lines: everything but the rows in the first one, and a row in each of the others."""
        head = {"format": VERSION, "complete": self.complete, "facts": self.facts, "plan": self.plan,
                "workloads": self.workloads, "left_out": self.left_out}  # fmt: skip
        return "".join(json.dumps(line, allow_nan=False, default=str) + "\n" for line in (head, *self.rows))

    def to_csv(self) -> str:
        """One line a row, each with the machine's facts."""
        text = io.StringIO()
        _write(text, self.recorded())
        return text.getvalue()

    def recorded(self) -> list[Row]:
        """Rows as files of committed rows keep them: facts of the machine and `COLUMNS`."""
        return [{name: self.facts.get(name) for name in _FACTS} | {name: row.get(name) for name in COLUMNS}
                for row in self.rows]  # fmt: skip


def named(row: Mapping[str, Any]) -> str:
    """What a row is of: target, form and dtype."""
    return " ".join(filter(None, (row["target"], row.get("form"), row["dtype"]))).removesuffix(" unknown")


def append(path: Path, new: Sequence[Row]) -> None:
    """Add rows of `recorded` to a CSV file.

    Raises:
        InvalidParameter: the file has other columns.
    """
    old = []
    if path.exists():
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if unknown := set(reader.fieldnames or ()) - {*_FACTS, *COLUMNS}:
                raise InvalidParameter(f"{path} has columns that rows lack: {', '.join(sorted(unknown))}; move it away")
            old = list(reader)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        _write(file, [*old, *new])


def _write(file: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    writer = csv.DictWriter(file, [*_FACTS, *COLUMNS], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def facts(threads: int, model: str | None = None) -> Row:
    """Machine and software, and the model where there is one; `load` is what else ran in the minute before."""
    cpu: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        cpu = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    status = Path("/proc/self/status")
    allowed = re.search(r"Cpus_allowed_list:\s*(\S+)", status.read_text()) if status.exists() else None
    flags = cpu.get("flags", "").split()
    versions = {"distilrt": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found: Row = {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "cpu": cpu.get("model name", platform.processor()),
        "isa": " ".join(flag for flag in ISA_FLAGS if flag in flags),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),
        "affinity": allowed[1] if allowed else "unknown",
        "system": f"{platform.system()} {platform.release()}",
        "versions": versions,
    }
    if model is not None:
        config = DistilBertConfig.from_pretrained(model)
        found |= {"model": model, "model_size": f"{config.num_layers} x {config.hidden_size}"}
    return found


def _commit() -> str:
    """The commit of the working directory, marked where a file differs from it that holds no rows of a bench."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)benches/results")
    return (git("rev-parse", "--short", "HEAD") or "none") + ("-dirty" if changed else "")
