"""The settings of a distillation. Each option is a field, from which its flag, its help and its check follow.

This module needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from distilrt.errors import InvalidParameter

TASKS = ("masked-lm", "text-classification")
SHORTEST = 8  # tokens of a sequence
_MOST = 1e9  # Float32 still holds products of such numbers.


def _option(default: Any, help_text: str, least: float = 0.0, most: float = _MOST, **more: Any) -> Any:
    return field(default=default, metadata={"help": help_text, "least": least, "most": most, **more})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One distillation.

    Raises:
        InvalidParameter: a number that is not allowed, or another task.
    """

    teacher: str = field(metadata={"help": "Folder or hub id of the teacher: a BERT, a DistilBERT or a RoBERTa."})
    corpus: list[str] = field(metadata={"help": "UTF-8 text files; of a classifier, a text a line."})
    out: str = field(metadata={"help": "Folder to write, which must not be there yet."})
    task: str = _option("masked-lm", f"{' or '.join(TASKS)}: what the teacher is.", choices=TASKS)
    soft_weight: float = _option(5.0, "Weight of the soft cross-entropy with the teacher's logits.")
    hard_weight: float = _option(2.0, "Weight of the cross-entropy with masked words, or with labels.")
    hidden_weight: float = _option(1.0, "Weight of the cosine distance of last hidden states.")
    temperature: float = _option(2.0, "Temperature of the soft cross-entropy.", 1e-3)
    mask_share: float = _option(0.15, "Share of tokens that are masked.", 1e-6, 1.0)
    smoothing: float = _option(0.7, "Rare tokens are masked more often: count to the power of minus this.")
    length: int | None = _option(None, "Tokens of a sequence; else the most that the teacher reads.", SHORTEST)
    batch_size: int = _option(8, "Sequences of a forward pass, on each device.", 1)
    accumulation: int = _option(4, "Forward passes of a step.", 1)
    epochs: float = _option(3.0, "How often the corpus is read.", 1e-9)
    learning_rate: float = _option(5e-4, "Highest learning rate.", 1e-12)
    warm_up: float = _option(0.05, "Share of steps in which the rate rises from 0; then it falls to 0.", 0.0, 1.0)
    clip: float = _option(5.0, "Largest norm of all gradients together.", 1e-12)
    bfloat16: bool | None = _option(None, "Train in bfloat16 by autocast; else where the device has it natively.")
    checkpointing: bool = _option(False, "Compute activations again in the backward pass, which saves memory.")
    random_init: bool = _option(False, "Start from random weights instead of the teacher's layers.")
    save_every: int = _option(500, "Steps from one checkpoint to the next.", 1)
    seed: int = _option(0, "Of masks, order and dropout.", 0, 2**63 - 1)

    def __post_init__(self) -> None:
        for each in fields(self):
            value, allowed = getattr(self, each.name), each.metadata
            flag = f"--{each.name.replace('_', '-')}"
            if "choices" in allowed and value not in allowed["choices"]:
                raise InvalidParameter(f"{flag} must be {' or '.join(allowed['choices'])}, found {value!r}")
            if isinstance(value, int | float) and not allowed["least"] <= value <= allowed["most"]:
                bounds = f"at least {allowed['least']:g} and at most {allowed['most']:g}"
                raise InvalidParameter(f"{flag} must be {bounds}, found {value!r}")
        if not self.soft_weight + self.hard_weight + self.hidden_weight:
            raise InvalidParameter("all three weights are 0; at least one loss must count")
        if not self.corpus:
            raise InvalidParameter("--corpus needs at least one file")
