"""What a benchmark found, complete or not: facts of the machine and a row for each target, workload and rate; as JSON
and CSV. It measures nothing."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from distilrt import __version__
from distilrt.bench import report
from distilrt.model.config import DistilBertConfig

Row = dict[str, Any]
VERSION = 2  # of the JSON
_LIBRARIES = ("numpy", "tokenizers", "torch", "transformers", "onnxruntime", "openvino", "ctranslate2")
# Columns of the CSV; the first ones say what was measured, the others what came out.
COLUMNS = (
    "target", "dtype", "version", "scenario", "workload", "mean_tokens", "padding", "batch", "rate", "slo", "valid",
    "steady", "ratio", "ratio_low", "ratio_high", "queries", "failed", "seconds", "samples_per_s", "tokens_per_s",
    "p50_ms", "p90_ms", "p95_ms", "p99_ms",
    "p99.9_ms", "mean_ms", "max_ms", "lag_p99_ms", "peak_share", "start_s", "peak_mb", "max_difference",
    "mean_difference", "cosine", "agreement",
)  # fmt: skip
_NUMBERS = re.compile(r"\[[-\d.e,\s]+\]")  # a list of rounds is one line, not hundreds
_FACTS = ("date", "commit", "cpu", "isa", "threads", "affinity", "load")


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
        """The whole as one object."""
        whole = {"format": VERSION, "complete": self.complete, "facts": self.facts, "plan": self.plan,
                 "workloads": self.workloads, "rows": self.rows, "left_out": self.left_out}  # fmt: skip
        text = json.dumps(whole, indent=1, allow_nan=False, default=str) + "\n"
        return _NUMBERS.sub(lambda match: " ".join(match[0].split()), text)

    def to_csv(self) -> str:
        """One line a row, each with the machine's facts."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*_FACTS, *COLUMNS])
        for row in self.rows:
            writer.writerow([*(self.facts[name] for name in _FACTS), *(row.get(name) for name in COLUMNS)])
        return text.getvalue()


def read(path: Path) -> Findings:
    """The findings in a JSON file.

    Raises:
        ValueError: it holds something else.
        OSError: it is not there.
    """
    try:
        whole = json.loads(path.read_bytes())
        version = whole.pop("format")
        if version != VERSION:
            raise ValueError(f"its format is {version!r}, this distilrt reads {VERSION}")
        return Findings(**whole)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no result of distilrt bench --json: {error}") from error


def facts(model: str, threads: int) -> Row:
    """Machine, software and model."""
    config = DistilBertConfig.from_pretrained(model)
    versions = {"distilrt": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        **report.machine(threads),
        "affinity": _ranges(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else "unknown",
        "system": f"{platform.system()} {platform.release()}",
        "memory_gb": _memory(),
        "model": model,
        "model_size": f"{config.num_layers} x {config.hidden_size}",
        "versions": versions,
    }


def _ranges(numbers: list[int]) -> str:
    """`0-3,8` for 0, 1, 2, 3 and 8."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
