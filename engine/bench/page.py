"""Findings as one HTML page that needs nothing beside it: plots, tables, the machine. It prints on A4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from distilrt.bench import charts, plots, terminal
from distilrt.bench.findings import Findings, Row, named

_CSS = """
:root { --ink:#1d2129; --soft:#5b626d; --line:#e1e4e9; --paper:#fff; --card:#f7f8fa; --bad:#b3261e;
  color-scheme:light dark }
* { box-sizing:border-box }
body { margin:0; background:var(--paper); color:var(--ink); font:15px/1.5 Inter,"Helvetica Neue",Arial,sans-serif }
main { max-width:60rem; margin:0 auto; padding:2rem 1.25rem 4rem }
h1 { font-size:1.7rem; line-height:1.2; margin:0 0 .3rem }
h2 { font-size:1.15rem; margin:2.4rem 0 .6rem }
p { margin:.4rem 0 } .soft { color:var(--soft) } .bad { color:var(--bad); font-weight:600 }
.heads { display:flex; flex-wrap:wrap; gap:.8rem; margin:1.4rem 0 }
.head { flex:1 1 11rem; background:var(--card); border:1px solid var(--line); border-radius:.6rem; padding:.8rem 1rem }
.head b { display:block; font-size:1.5rem; line-height:1.25; font-variant-numeric:tabular-nums }
.head span { color:var(--soft); font-size:.85rem }
.scroll { overflow-x:auto }
table { border-collapse:collapse; width:100%; font-size:.87rem; font-variant-numeric:tabular-nums }
th,td { text-align:right; padding:.35rem .55rem; border-bottom:1px solid var(--line); white-space:nowrap }
th { color:var(--soft); font-weight:600; border-bottom:2px solid var(--line) }
th.left,td.left { text-align:left }
figure { margin:1rem 0; padding:.8rem; border:1px solid var(--line); border-radius:.6rem; break-inside:avoid }
figure svg { display:block; width:100%; height:auto }
dl { display:grid; grid-template-columns:max-content 1fr; gap:.2rem 1.2rem; font-size:.9rem }
dt { color:var(--soft) } dd { margin:0; overflow-wrap:anywhere }
figure svg text { font-family:Inter,"Helvetica Neue",Arial,sans-serif !important }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink:#e6e8ec; --soft:#a2a9b4; --line:#363b44; --paper:#15181d; --card:#1e2228; --bad:#ff8a80 }
  figure svg { filter:invert(1) hue-rotate(180deg) } }
@page { size:A4; margin:14mm }
@media print { main { max-width:none; padding:0 } body { font-size:11px } h2 { break-after:avoid }
  tr { break-inside:avoid }
  .scroll { overflow:visible } table { font-size:8.5px } th,td { padding:.25rem .3rem } }
"""
_WORDS = {"single": "one text after the other", "multi": "batches, one after the other",
          "server": "texts at random times (Poisson), latency from the intended time", "offline": "all texts at once",
          "peak": "the highest rate that keeps the promise, held in two re-tests",
          "alone": "token ids to logits: batches of one shape, or a mix of lengths all at once"}  # fmt: skip


_OF_ENGINES = ("start s", "MB", "version")
_SPEEDS = [each for each in terminal.COLUMNS + terminal.MORE if each[0] not in _OF_ENGINES]
_ENGINES = [each for each in terminal.COLUMNS + terminal.MORE if each[0] in ("target", *_OF_ENGINES)]


def page(findings: Findings) -> str:
    """The page."""
    facts, plan = findings.facts, findings.plan
    parts = [
        f"<h1>{escape(Path(str(facts['model'])).name)}</h1>",
        f'<p class="soft">{escape(plan["scenario"])}: {_WORDS[plan["scenario"]]} · {escape(facts["cpu"])}, '
        f"{facts['threads']} threads · {facts['date']}</p>",
    ]
    if not findings.complete:
        parts.append('<p class="bad">Broken off: this is what had been measured until then.</p>')
    if findings.rows:
        parts.append(f'<div class="heads">{"".join(_heads(findings.rows))}</div>')
    if charts.available():
        parts += [f"<figure>{charts.svg(chart)}</figure>" for chart in plots.draw(findings).values()]
    else:
        parts.append("<p>Charts need vl-convert: pip install 'distilrt[bench]'.</p>")
    for workload in findings.workloads:
        rows = [row for row in findings.rows if row["workload"] == workload["workload"]]
        if rows:
            parts += [f"<h2>{escape(workload['workload'])}</h2>", f'<p class="soft">{_mix(workload)}</p>',
                      _table(rows, _SPEEDS), _notes(rows)]  # fmt: skip
    if findings.rows:
        once = {named(row): row for row in findings.rows}
        parts += ["<h2>Engines</h2>", _table(list(once.values()), _ENGINES)]
    if findings.left_out:
        items = "".join(f"<li>{escape(line)}</li>" for line in findings.left_out)
        parts.append(f"<h2>Not measured</h2><ul>{items}</ul>")
    parts += ["<h2>Machine and method</h2>", _facts(findings)]
    body = "\n".join(parts)
    title = escape(f"distilrt bench {plan['scenario']} {facts['model']}")
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_CSS}</style></head>'
            f"<body><main>\n{body}\n</main></body></html>\n")  # fmt: skip


def _heads(rows: Sequence[Row]) -> list[str]:
    """The number of each target that the scenario is about: of the first workload and the highest valid rate."""
    heads = []
    first = [row for row in rows if row["workload"] == rows[0]["workload"]]
    shown = {named(row): row for row in first}  # The dict keeps the rows' order.
    for row in (shown | {named(row): row for row in first if row["valid"]}).values():
        name = escape(named(row))
        if not row["valid"]:
            value, unit = "invalid", "the load generator was late"
        elif row["scenario"] == "peak":
            value, unit = f"{terminal.speed(row['rate'])} /s", f"within {row['slo']}"
        elif row["scenario"] == "offline":
            value, unit = terminal.speed(row["tokens_per_s"]), "real tokens/s"
        else:
            percent = "p90" if row["scenario"] == "single" else "p99"
            at = f" at {row['rate']:g}/s" if row["rate"] else ""
            value, unit = f"{terminal.speed(row[f'{percent}_ms'])} ms", f"{percent}{at}"
        heads.append(f'<div class="head"><span>{name}</span><b>{escape(value)}</b><span>{escape(unit)}</span></div>')
    return heads


def _mix(workload: Row) -> str:
    """A workload in words."""
    return (f"{workload['texts']} texts, {workload['mean_tokens']:g} tokens on average "
            f"(5 % up to {workload['p5_tokens']:g}, half up to {workload['p50_tokens']:g}, "
            f"95 % up to {workload['p95_tokens']:.0f}); {workload['padding']:.0%} padding in batches of "
            f"{workload['batch']}; {escape(workload['task'])}")  # fmt: skip


def _table(rows: Sequence[Row], columns: Sequence[tuple[str, Callable[[Row], str]]]) -> str:
    columns = [each for each in columns if any(each[1](row) not in ("–", "") for row in rows)]
    heads = "".join(_cell("th", head, head) for head, _ in columns)
    body = "".join(f"<tr>{''.join(_cell('td', head, cell(row)) for head, cell in columns)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _notes(rows: Sequence[Row]) -> str:
    said: dict[str, list[str]] = {}
    for row in rows:
        said.setdefault(terminal.remarks(row), []).append(terminal.measured(row))
    return "".join(
        f'<p class="soft">{escape(words)}: {escape(", ".join(names))}</p>' for words, names in said.items() if words
    )


def _cell(tag: str, head: str, words: str) -> str:
    return f"<{tag}{' class=left' if head in ('target', 'version') else ''}>{escape(words)}</{tag}>"


def _facts(findings: Findings) -> str:
    facts, plan = findings.facts, findings.plan
    about = {
        "CPU": f"{facts['cpu']} ({facts['isa']})",
        "CPUs allowed": facts["affinity"],
        "threads of an engine": facts["threads"],
        "memory": f"{facts['memory_gb']} GB",
        "load before": facts["load"],
        "system": facts["system"],
        "commit": facts["commit"],
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "measurement": f"at least {plan['duration']:g} s and {plan['count']} queries each, seed {plan['seed']}",
        "quality": "answers compared with float32's before any measurement: largest difference of all scores relative "
        "to the largest score, and share of texts with the same label",
        "vs 1st": "how many times as fast as the first target in rounds of the same queries, taken in turns "
        "(trimmed mean of the logarithms), ± half the interval of 95 %",
        "steady": "the last three windows agree within 10 %",
        "valid": "99 % of the queries were sent within 1 ms, or a tenth of the median latency, of the intended time",
    }
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in about.items())
    return f"<dl>{items}</dl>"
