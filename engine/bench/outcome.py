"""Carries out a run under a progress bar, and shows and keeps what it found, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from distilrt.bench import findings as finding
from distilrt.bench import page, plots, report
from distilrt.bench.findings import Findings
from distilrt.bench.progress import Say, bar


@dataclass(frozen=True, slots=True)
class Files:
    """Where findings go: JSON lines, a table, a page, a folder of charts, and a file of committed rows."""

    json: Path | None = None
    csv: Path | None = None
    html: Path | None = None
    png: Path | None = None
    record: Path | None = None

    def write(self, found: Findings) -> None:
        """All but the committed rows."""
        for path, text in ((self.json, Findings.to_json), (self.csv, Findings.to_csv), (self.html, page.page)):
            if path is not None:
                path.write_text(text(found), encoding="utf-8")
        if self.png is not None:
            plots.save(found, self.png)


def carry_out(found: Findings, seconds: float, work: Callable[[Say], None], files: Files, *, log: bool = True) -> None:
    """Do it, and show and write what it found. A run that Ctrl-C ends writes what it has, and records nothing.

    Args:
        found: what `work` fills.
        seconds: of the work, roughly.
        work: does it, and tells its steps.
        files: to write.
        log: write a line for each step where there is no terminal.

    Raises:
        typer.Exit: 130 after Ctrl-C.
    """
    try:
        with bar(seconds, Console(stderr=True), log=log) as say:
            work(say)
        found.complete = True
    except KeyboardInterrupt:
        pass  # The run is not complete, which its report and its exit code say.
    finally:
        report.show(found, Console(markup=False, highlight=False))
        files.write(found)
    if not found.complete:
        if files.record is not None:
            typer.echo("nothing was recorded", err=True)
        raise typer.Exit(130)
    if files.record is not None:
        finding.append(files.record, found.recorded())
