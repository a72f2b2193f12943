"""Whether `distilrt bench` can be believed: one command twice, then once more with an engine slowed by 5 %.

    python -m benches.agreement --model FOLDER --peer onnxruntime:int8

The two runs must agree within 5 % in the ratio to the same peer, and `changes` must call them the same; it must find
the third changed. The slowed engine waits a twentieth of each answer's time; it spins, for a sleep would take longer
than that and make it easy. The exit code is 1 where one of these fails.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from distilrt.bench import command, scenarios, session, targets
from distilrt.bench.changes import Change, changes
from distilrt.bench.findings import Findings, read

SLOWER = 0.05
ALLOWED = 0.05


class SlowedSession(session.Session):
    """A session whose process slows distilrt."""

    module = "benches.agreement"


def slowed(answer: Callable[[Sequence[int]], Any]) -> Callable[[Sequence[int]], Any]:
    """`answer`, and then 5 % of its time for nothing."""

    async def longer(indices: Sequence[int]) -> list[Any]:
        start = time.perf_counter()
        found: list[Any] = await answer(indices)
        end = time.perf_counter() + SLOWER * (time.perf_counter() - start)
        while time.perf_counter() < end:
            await asyncio.sleep(0)
        return found

    return longer


class _Slowed(targets.Distilrt):
    def __init__(self, spec: targets.Spec) -> None:
        super().__init__(spec)
        self.answer = slowed(self.answer)  # type: ignore[assignment,method-assign]
        self.answer_all = slowed(self.answer_all)  # type: ignore[assignment,method-assign]


def _run(arguments: list[str], kind: type[session.Session]) -> Findings:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "run.json")
        scenarios.Session = kind  # type: ignore[attr-defined]
        # Processes of targets do not look where they are, nor may they see the folder `kernels` beside this one.
        Path(folder, "benches").symlink_to(Path(__file__).parent)
        os.environ["PYTHONPATH"] = folder
        try:
            command.run([*arguments, "--json", str(file)])
        except SystemExit as stop:
            if stop.code:
                raise
        finally:
            scenarios.Session = session.Session  # type: ignore[attr-defined]
        return read(file)


def _told(what: str, found: Sequence[Change]) -> Sequence[Change]:
    for change in found:
        typer.echo(f"{what}: {change}")
    return found


def main(
    model: Annotated[str, typer.Option("--model", "-m")],
    peer: Annotated[str, typer.Option(help="With its dtype, as in onnxruntime:int8.")] = "onnxruntime:int8",
    target: Annotated[str, typer.Option(help="distilrt with a dtype.")] = "distilrt:int8",
    scenario: str = "single",
    workload: str = "mixed",
    rate: str = "",
    duration: float = 10.0,
    threads: int | None = None,
) -> None:
    """Run the command three times."""
    arguments = ["--model", model, "--scenario", scenario, "--workload", workload, "--duration", str(duration),
                 "--target", peer, "--target", target]  # fmt: skip
    arguments += ["--rate", rate] if rate else []
    arguments += ["--threads", str(threads)] if threads else []
    first, again = (_run(arguments, session.Session) for _ in range(2))
    third, name = _run(arguments, SlowedSession), peer.replace(":", " ")
    same = _told("again", changes(first, again, name))
    slower = _told("slowed by 5 %", changes(first, third, name))
    agree = all(abs(change.factor.ratio - 1) <= ALLOWED and change.verdict == "same" for change in same)
    found = all(change.verdict == "CHANGED" and change.factor.log < 0 for change in slower)
    typer.echo(f"two runs {'agree' if agree else 'DISAGREE'}; the slowed engine was {'' if found else 'NOT '}found")
    if not agree or not found:
        raise typer.Exit(1)


if __name__ == "__main__":
    import sys

    if len(sys.argv) > 1:
        typer.run(main)
    else:  # as the process of a session
        targets.Distilrt = _Slowed  # type: ignore[misc]
        session.main()
