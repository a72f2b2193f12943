"""The triple loss: what a student is told by its teacher's logits, by right answers and by its teacher's hidden states.

Every loss is a scalar tensor, computed in float32 where its inputs are narrower.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from distilrt.distill.corpora import NONE

Outputs = tuple[Tensor, Tensor]  # last hidden states [tokens, hidden_size], logits of some of them [n, width]


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`T² · mean over rows of KL(softmax(teacher / T) ‖ softmax(student / T))`, 0 of no rows; both `[n, width]` logits.

    The factor keeps gradients of one size at any temperature (Hinton et al. 2015, arXiv:1503.02531). From the cross
    entropy with soft targets it differs by the targets' own entropy, which has no gradient.
    """
    log_probs = functional.log_softmax(_wide(student) / temperature, dim=-1)
    targets = functional.log_softmax(_wide(teacher) / temperature, dim=-1)
    summed = functional.kl_div(log_probs, targets, reduction="sum", log_target=True)
    return summed / max(len(student), 1) * temperature**2


def hard_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean of `-log softmax(logits)[label]` over rows whose label is not `NONE`, else 0; `[n, width]` and `[n]`."""
    counted = functional.cross_entropy(_wide(logits), labels, ignore_index=NONE, reduction="sum")
    return counted / (labels != NONE).sum().clamp(min=1)


def hidden_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over rows of `1 - cos(student, teacher)`; both `[n, hidden_size]`."""
    return 1.0 - functional.cosine_similarity(_wide(student), _wide(teacher), dim=-1).mean()


def triple(student: Outputs, teacher: Outputs | None, labels: Tensor, temperature: float) -> Tensor:
    """The soft, the hard and the hidden loss of a batch `[3]`; labels are `[n]`, and without a teacher two are 0."""
    hard = hard_cross_entropy(student[1], labels)
    if teacher is None:
        return torch.stack([torch.zeros_like(hard), hard, torch.zeros_like(hard)])
    soft = soft_cross_entropy(student[1], teacher[1], temperature)
    return torch.stack([soft, hard, hidden_cosine(student[0], teacher[0])])


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
