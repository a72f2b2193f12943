"""A transformers model that gives hidden states of all tokens and logits of some rows, as the three losses want them.

The rows whose logits count are few: the head over a vocabulary runs on these alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from distilrt.distill.corpora import Examples
from distilrt.distill.losses import Outputs


class PackedModel(nn.Module):
    """A DistilBERT or RoBERTa of transformers with one of the two heads, or a BERT that predicts masked words."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor | None, rows: Tensor) -> Outputs:
        """Hidden states of the unmasked tokens, end to end, and the head's logits of these rows `[n]` of them.

        `ids` and `mask` are `[batch_size, seq_len]`; None: there is no padding.
        """
        hidden = self.model.base_model(input_ids=ids, attention_mask=mask)[0]
        hidden = hidden.flatten(0, 1) if mask is None else hidden[mask]
        return hidden, self._head(hidden[rows])

    def inputs(self, examples: Examples, device: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        """A batch as the arguments of `forward`."""
        ids = [torch.from_numpy(each).long() for each in examples.sequences]
        padded = pad_sequence(ids, batch_first=True, padding_value=self.model.config.pad_token_id or 0)
        mask = torch.arange(padded.shape[1]) < torch.tensor(list(map(len, ids)))[:, None]
        rows = torch.from_numpy(examples.rows).to(device)
        return padded.to(device), None if mask.all() else mask.to(device), rows

    def _head(self, rows: Tensor) -> Any:
        """The logits of hidden states `[n, hidden_size]`."""
        model: Any = self.model
        if hasattr(model, "vocab_transform"):
            return model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(rows))))
        if hasattr(model, "pre_classifier"):
            return model.classifier(model.dropout(torch.relu(model.pre_classifier(rows))))
        if hasattr(model, "classifier"):  # a RoBERTa's, which takes whole sequences
            return model.classifier(rows[:, None])
        return (model.lm_head if hasattr(model, "lm_head") else model.cls)(rows)
