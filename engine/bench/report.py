"""Timings as rows with the machine that made them: appended to a CSV file, shown as a table. It measures nothing."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from distilrt.bench import peers
from distilrt.bench.compare import Timing
from distilrt.bench.roofline import Roofline
from distilrt.bench.workloads import encoder_weights
from distilrt.model.config import DistilBertConfig

Row = dict[str, Any]
FIELDS = ("date", "commit", "cpu", "isa", "threads", "load", "workload", "dtype", "engine", "version", "rounds",
          "median_ms", "iqr_ms", "min_ms", "tokens_per_s", "best_peer_ratio", "error", "peak_gflops", "peak_share",
          "read_gbs", "read_share")  # fmt: skip
ISA_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
STREAMING_TOKENS = 16  # a batch of so few waits for weights, not for arithmetic


def machine(num_threads: int) -> Row:
    """What a row must say of where it was measured; `load` is what else ran in the minute before."""
    facts: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "date": date.today().isoformat(),
        "commit": done.stdout.strip() or "none",
        "cpu": facts.get("model name", platform.processor()),
        "isa": " ".join(flag for flag in ISA_FLAGS if flag in flags),
        "threads": num_threads,
        "load": round(os.getloadavg()[0], 2),
    }


def rows(timings: Sequence[Timing], config: DistilBertConfig, peaks: Roofline, facts: Row) -> list[Row]:
    """One row a timing. `best_peer_ratio` is the time of the fastest peer with the same dtype over the row's own.

    Shares of the peak count the work that an engine has to do, which for distilrt is less than for the others.
    """
    made = []
    for timing in timings:
        workload, dtype, median = timing.measured, timing.engine.dtype, timing.quantile(50)
        rivals = [
            other.quantile(50)
            for other in timings
            if (other.measured, other.engine.dtype) == (workload, dtype) and other.engine.name not in peers.OURS
        ]
        work = workload.flops(config, last_layer_rows=1 if timing.engine.name == "distilrt" else None)
        peak, read = peaks.flops.get(dtype), peaks.read_bandwidth
        read_share = None
        if read and workload.tokens <= STREAMING_TOKENS:
            read_share = round(encoder_weights(config) * BYTES[dtype] / median / read, 3)
        made.append({
            **facts,
            "workload": workload.name,
            "dtype": dtype,
            "engine": timing.engine.name,
            "version": timing.version,
            "rounds": round(timing.rounds, 2),
            "median_ms": round(1e3 * median, 3),
            "iqr_ms": round(1e3 * (timing.quantile(75) - timing.quantile(25)), 3) if timing.rounds > 1 else None,
            "min_ms": round(1e3 * timing.quantile(0), 3),
            "tokens_per_s": round(workload.tokens / median),
            "best_peer_ratio": round(min(rivals) / median, 3) if rivals else None,
            "error": float(f"{timing.error:.1e}"),
            "peak_gflops": round(peak / 1e9) if peak else None,
            "peak_share": round(work / median / peak, 3) if peak else None,
            "read_gbs": round(read / 1e9, 1) if read else None,
            "read_share": read_share,
        })  # fmt: skip
    return made


def append(path: Path, new: Sequence[Row], fields: Sequence[str] = FIELDS) -> None:
    """Add rows to a CSV file, with a header if it is new.

    Raises:
        ValueError: the file's columns are others.
    """
    header = ",".join(fields)
    if path.exists() and (found := path.read_text().partition("\n")[0].strip()) != header:
        raise ValueError(f"{path} has the columns {found}, not {header}; move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(new)


def table(made: Sequence[Row]) -> str:
    """Rows by workload and dtype, fastest first; the last columns are shares of the measured peaks."""
    lines = [f"{'workload':<13}{'dtype':<10}{'engine':<19}{'rounds':>7}{'median ms':>10}{'iqr':>8}{'tokens/s':>10}"
             f"{'vs best':>9}{'error':>9}{'of peak':>9}{'of read':>9}"]  # fmt: skip
    workloads = list(dict.fromkeys(row["workload"] for row in made))
    dtypes = list(BYTES)
    previous = None
    for row in sorted(
        made, key=lambda row: (workloads.index(row["workload"]), dtypes.index(row["dtype"]), row["median_ms"])
    ):
        group = (row["workload"], row["dtype"])
        if group != previous:
            lines.append("")
        workload, dtype = group if group != previous else ("", "")
        previous = group
        lines.append(
            f"{workload:<13}{dtype:<10}{row['engine']:<19}{row['rounds']:>7g}{row['median_ms']:>10.2f}"
            f"{_shown(row['iqr_ms'], '.2f'):>8}{row['tokens_per_s']:>10}"
            f"{_shown(row['best_peer_ratio'], '.2f', 'x'):>9}{row['error']:>9.0e}"
            f"{_shown(row['peak_share'], '.0%'):>9}{_shown(row['read_share'], '.0%'):>9}"
        )
    return "\n".join(lines)


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"
