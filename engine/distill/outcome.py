"""The outcome of a distillation: a folder with the student, its tokenizer, its losses, a model card and a plot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from distilrt import __version__
from distilrt.checkpoint.upload import model_card
from distilrt.distill.training import Row
from distilrt.text.tokenizer import DistilBertTokenizer

_LOSSES, _PLOT = "losses.jsonl", "losses.svg"
_POINTS = 200  # A line of the plot has at most so many; more steps are averaged.
About = Mapping[str, Mapping[str, Any]]
_SHOWN = ("loss", "soft", "hard", "hidden")


def write(
    folder: Path, temporary: Path, model: Any, tokenizer: DistilBertTokenizer, rows: Sequence[Row], about: About
) -> None:
    """Write a folder that is not there yet; it is there whole or not at all.

    Args:
        temporary: where it is written, on the same disk; it is renamed once it is whole.
        model: transformers' model of the student.
        rows: of each step, its losses.
        about: what the card says of the run, in tables by title.

    Raises:
        OSError: the disk is full, or the folder can't be made.
    """
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        model.save_pretrained(temporary)
    except SafetensorError as error:  # safetensors has a class of its own for a full disk
        raise OSError(f"can't write {temporary}: {error}; is the disk full?") from error
    tokenizer.save_pretrained(temporary)
    (temporary / _LOSSES).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    card = _card(model_card(None, folder.name, type(model).__name__), rows, about)
    if find_spec("vl_convert"):
        import vl_convert

        (temporary / _PLOT).write_text(str(vl_convert.vegalite_to_svg(_chart(rows))), encoding="utf-8")
        card += f"\n![Losses by step]({_PLOT})\n"
    (temporary / "README.md").write_text(card, encoding="utf-8")
    temporary.rename(folder)


def _card(start: str, rows: Sequence[Row], about: About) -> str:
    """The model card, which ends with how the model was made."""
    few = max(1, len(rows) // 20)
    losses = {name: f"{_mean(rows[:few], name):.4f} → {_mean(rows[-few:], name):.4f}" for name in _SHOWN}
    made = f"""{start}
## How it was made

Distilled with distilrt {__version__} by the triple loss of DistilBERT (Sanh et al. 2019, arXiv:1910.01108): soft
cross-entropy with the teacher's logits, cross-entropy with right answers (hard), cosine distance of last hidden states.
The losses of every step are in {_LOSSES}.
"""
    for head, part in {f"loss: means of the first → the last {few} steps": losses, **about}.items():
        made += f"\n| {head} | |\n|---|---|\n"
        made += "".join(f"| {name.replace('_', ' ')} | {value} |\n" for name, value in part.items())
    return made


def _chart(rows: Sequence[Row]) -> dict[str, Any]:
    """The losses by step as a Vega-Lite document."""
    size = -(-len(rows) // _POINTS)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    points = [{"step": part[-1]["step"], "name": key, "value": _mean(part, key)} for part in parts for key in _SHOWN]
    y = {"field": "value", "type": "quantitative", "title": None}
    color = {"field": "name", "type": "nominal", "title": None, "scale": {"domain": _SHOWN}}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json", "width": 520, "height": 240,
        "data": {"values": points}, "mark": "line", "title": "Losses, unweighted, and their weighted sum (loss)",
        "encoding": {"x": {"field": "step", "type": "quantitative"}, "y": y, "color": color},
    }  # fmt: skip


def _mean(rows: Sequence[Row], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))
