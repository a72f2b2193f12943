"""What a run is named by, and the short table that ends it."""

from __future__ import annotations

import platform
import re
import subprocess
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any


def file_name(what: str, facts: dict[str, Any]) -> str:
    """`what` and the device's name."""
    return f"{what}_{re.sub(r'[^a-z0-9]+', '-', str(facts['device'] or 'no device').lower()).strip('-')}.json"


def environment(facts: dict[str, Any], root: Path | None) -> dict[str, Any]:
    """What the results depend on: device, driver, versions, commit, date."""
    done = None
    if facts["device"]:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = _output(query)
    versions = {name: _version(name) for name in ("torch", "triton", "transformers", "numpy")}
    commit = _output(["git", "-C", str(root), "rev-parse", "--short", "HEAD"]) if root else None
    return {"date": date.today().isoformat(), "commit": commit, **facts, "driver": done,
            "python": platform.python_version(), **versions}  # fmt: skip


def summary(report: dict[str, Any]) -> list[str]:
    """The short table: what failed, the ceilings, and a line for each workload and dtype."""
    checks, rows = report["checks"], report["rows"]
    bad = [check for check in checks if not check["ok"]]
    lines = [" ".join(f"{key}={value}" for key, value in report["environment"].items())]
    if report["self_test"]:
        lines.append("SELF-TEST in Triton's interpreter on the CPU: the times below mean nothing")
    lines.append(f"correct: {len(checks) - len(bad)} of {len(checks)} checks")
    lines += [f"  WRONG {check}" for check in bad]
    lines += [f"  PROBLEM {problem}" for problem in report["problems"]]
    lines += [f"{name}: {value}" for name, value in report["facts"].items()]
    lines.append(f"{'workload':10}{'dtype':10}{'GPU us':>10}{'floor':>9}{'share':>7}{'wall':>9}{'arrays':>9}"
                 f"{'sdpa':>10}{'graph':>10}{'compile':>10}{'x best':>8}")  # fmt: skip
    by_key = {(row["engine"], row["workload"], row["dtype"]): row for row in rows if "gpu_us" in row}
    for (engine, workload, dtype), row in by_key.items():
        if engine != "distilrt":
            continue
        names = ("transformers-sdpa", "transformers-sdpa-graph", "torch.compile-max-autotune")
        times = [by_key[name, workload, dtype]["gpu_us"]["median"] if (name, workload, dtype) in by_key else None
                 for name in names]  # fmt: skip
        known = [value for value in times if value is not None]
        gpu = row["gpu_us"]["median"]
        lines.append(
            f"{workload:10}{dtype:10}{gpu:10.1f}{row['floor_us']:9.1f}{row['share_of_floor']:7.0%}"
            f"{row['wall_tensors_us']['median']:9.1f}{row['wall_arrays_us']['median']:9.1f}"
            + "".join(f"{'-' if value is None else format(value, '.1f'):>10}" for value in times)
            + f"{format(min(known) / gpu, '.2f') if known else '-':>8}"
        )
    return lines


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _output(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return None
