"""Findings as one HTML page that needs nothing beside it: plots, tables, the machine. It prints on A4."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from distilrt.bench import plots, report
from distilrt.bench.findings import Findings

_CSS = """
:root { --ink:#1d2129; --soft:#5b626d; --line:#e1e4e9; --paper:#fff; --bad:#b3261e;
  color-scheme:light dark }
* { box-sizing:border-box }
body { margin:0; background:var(--paper); color:var(--ink); font:15px/1.5 Inter,"Helvetica Neue",Arial,sans-serif }
main { max-width:60rem; margin:0 auto; padding:2rem 1.25rem 4rem }
h1 { font-size:1.7rem; line-height:1.2; margin:0 0 .3rem }
h2 { font-size:1.15rem; margin:2.4rem 0 .6rem }
p { margin:.4rem 0 } .soft { color:var(--soft) } .bad { color:var(--bad); font-weight:600 }
.scroll { overflow-x:auto }
table { border-collapse:collapse; width:100%; font-size:.87rem; font-variant-numeric:tabular-nums }
th,td { text-align:right; padding:.35rem .55rem; border-bottom:1px solid var(--line); white-space:nowrap }
th { color:var(--soft); font-weight:600; border-bottom:2px solid var(--line) }
th.left,td.left { text-align:left }
figure { margin:1rem 0; padding:.8rem; border:1px solid var(--line); border-radius:.6rem; break-inside:avoid }
figure svg { display:block; width:100%; height:auto }
td.what { text-align:left; white-space:normal; overflow-wrap:anywhere }
figure svg text { font-family:Inter,"Helvetica Neue",Arial,sans-serif !important }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink:#e6e8ec; --soft:#a2a9b4; --line:#363b44; --paper:#15181d; --bad:#ff8a80 }
  figure svg { filter:invert(1) hue-rotate(180deg) } }
@page { size:A4; margin:14mm }
@media print { main { max-width:none; padding:0 } body { font-size:11px } h2 { break-after:avoid }
  tr { break-inside:avoid }
  .scroll { overflow:visible } table { font-size:8.5px } th,td { padding:.25rem .3rem } }
"""


def page(findings: Findings) -> str:
    """The page."""
    facts, plan = findings.facts, findings.plan
    parts = [
        f"<h1>{escape(Path(str(facts['model'])).name)}</h1>",
        f'<p class="soft">{escape(plan["scenario"])} · {escape(facts["cpu"])}, {facts["threads"]} threads · '
        f"{facts['date']}</p>",
    ]
    if not findings.complete:
        parts.append('<p class="bad">Broken off: this is what had been measured until then.</p>')
    if plots.available():
        parts += [f"<figure>{plots.svg(chart)}</figure>" for chart in plots.draw(findings).values()]
    else:
        parts.append("<p>Charts need vl-convert: pip install 'distilrt[bench]'.</p>")
    for title, about, tables, notes in report.sections(findings):
        parts += [f"<h2>{escape(title)}</h2>", f'<p class="soft">{escape(about)}</p>', *map(_table, tables)]
        parts += [f'<p class="soft">{escape(note)}</p>' for note in notes]
    body = "\n".join(parts)
    title = escape(f"distilrt bench {plan['scenario']} {facts['model']}")
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_CSS}</style></head>'
            f"<body><main>\n{body}\n</main></body></html>\n")  # fmt: skip


def _table(table: Sequence[Sequence[str]]) -> str:
    heads, *lines = table
    named = dict.fromkeys(report.LEFT, ' class="left"') | {"what": ' class="what"'}
    classes = [named.get(head, "") for head in heads]

    def line(tag: str, cells: Sequence[str]) -> str:
        shown = (f"<{tag}{each}>{escape(cell)}</{tag}>" for each, cell in zip(classes, cells, strict=True))
        return f"<tr>{''.join(shown)}</tr>"

    head = "" if "about" in heads else f"<thead>{line('th', heads)}</thead>"
    body = "".join(line("td", cells) for cells in lines)
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'
