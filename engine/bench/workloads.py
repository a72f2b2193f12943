"""What is timed: batches of sequence lengths, their token ids, and the arithmetic that they need.

It knows nothing of engines and clocks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distilrt.model.config import DistilBertConfig

DEFAULT = ("1x8", "1x16", "1x32", "1x64", "1x128", "1x256", "1x512", "8x128", "32x128",
           "mixed", "mixed-sorted", "mixed-single")  # fmt: skip
MIXED_BATCH = 32
TURNS = 8  # of a workload with many batches: engines take turns after each eighth of it


@dataclass(frozen=True, slots=True)
class Workload:
    """Lengths of the sequences of each batch; one pass runs every batch once."""

    name: str
    batches: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Real tokens of one pass."""
        return sum(map(sum, self.batches))

    @property
    def padded_tokens(self) -> int:
        """Tokens of one pass for an engine that pads every batch to its longest sequence."""
        return sum(len(lengths) * max(lengths) for lengths in self.batches)

    @property
    def turns(self) -> tuple[range, ...]:
        """Indices of the batches that an engine runs before the next engine's turn, in order of their turns.

        Of batches sorted by length, the first few turns already have short and long ones.
        """
        size = max(1, len(self.batches) // TURNS)
        parts = [range(start, start + size) for start in range(0, len(self.batches), size)]
        return tuple(parts[(3 * i + 2) % len(parts)] for i in range(len(parts)))

    def flops(self, config: DistilBertConfig, *, last_layer_rows: int | None = None) -> float:
        """Multiplications and additions of one pass: the real tokens' linear layers and attention, without the head.

        With `last_layer_rows`, the last layer computes only so many rows of each sequence, and keys and values of all.
        """
        hidden, layers = config.hidden_size, config.num_layers
        of_all, of_each = 4 * hidden**2, 2 * encoder_weights(config) // layers  # keys and values; the whole layer
        total = 0
        for n in (n for lengths in self.batches for n in lengths):
            rows = n if last_layer_rows is None else min(n, last_layer_rows)
            total += (layers - 1) * (n * of_each + 4 * n * n * hidden)
            total += n * of_all + rows * (of_each - of_all) + 4 * rows * n * hidden
        return float(total)


@dataclass(frozen=True, slots=True)
class Inputs:
    """One batch as engines take it: padded ids and mask, or the sequences themselves."""

    input_ids: npt.NDArray[np.int64]  # [batch_size, seq_len], padded with 0
    attention_mask: npt.NDArray[np.int64]  # [batch_size, seq_len]
    sequences: list[npt.NDArray[np.int64]]

    @property
    def ragged(self) -> bool:
        """Whether there is padding."""
        return not self.attention_mask.all()


def encoder_weights(config: DistilBertConfig) -> int:
    """Weights of the layers' linear maps, each read once a forward."""
    return config.num_layers * config.hidden_size * (4 * config.hidden_size + 2 * config.intermediate_size)


def mixed_lengths() -> npt.NDArray[np.int64]:
    """256 lengths from 4 to 512, log-normal as in natural text, mostly short."""
    lengths = np.exp(np.random.default_rng(0).normal(4.0, 0.9, 256))
    return np.clip(np.round(lengths), 4, 512).astype(np.int64)


def parse(name: str) -> Workload:
    """The workload called `BATCHxLENGTH`, `mixed` (as they come), `mixed-sorted` or `mixed-single` (batches of one).

    Raises:
        ValueError: another name.
    """
    if match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", name):
        return Workload(name, ((int(match[2]),) * int(match[1]),))
    if name not in ("mixed", "mixed-sorted", "mixed-single"):
        raise ValueError(f"a workload is BATCHxLENGTH, mixed, mixed-sorted or mixed-single, found {name!r}")
    lengths = mixed_lengths().tolist()
    if name == "mixed-sorted":
        lengths.sort()
    size = 1 if name == "mixed-single" else MIXED_BATCH
    return Workload(name, tuple(tuple(lengths[i : i + size]) for i in range(0, len(lengths), size)))


def make_inputs(batches: Sequence[Sequence[int]], vocab_size: int, seed: int = 0) -> list[Inputs]:
    """Random token ids for batches of these lengths; 0, the padding, is not among them."""
    random = np.random.default_rng(seed)
    made = []
    for lengths in batches:
        sequences = [random.integers(1, vocab_size, n) for n in lengths]
        mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
        ids = np.zeros(mask.shape, np.int64)
        ids[mask] = np.concatenate(sequences)
        made.append(Inputs(ids, mask.astype(np.int64), sequences))
    return made
