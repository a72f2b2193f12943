"""Padded batches that already lie on the GPU: checked by shape on the host, by value on the device, packed there.

Values must not come to the host, for that would wait for everything before them. So a kernel packs, holds ids and
positions within their tables, and sets bits of an error word, which follows by itself into pinned memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from distilrt.backends.cuda.encoder import Buffers
from distilrt.batch import PaddedInputs, check_padded, too_long
from distilrt.errors import InvalidInput
from distilrt.kernels.packing import BAD_ID, BAD_MASK, BAD_POSITION, INTEGERS, pack
from distilrt.model.config import DistilBertConfig

BAD_TYPE = 16
_MEANINGS = {
    BAD_ID: "input_ids holds an id that is not in the vocabulary",
    BAD_POSITION: "a token is at a position that this model does not have",
    BAD_MASK: "attention_mask holds something other than 0 and 1",
    BAD_TYPE: "token_type_ids holds a type that this model does not have",
}
_WORDS = 256
_PENDING = -1  # on the host: the batch's word has not arrived


@dataclass(frozen=True, slots=True)
class Padded:
    """Tensors of one device, of fitting shapes. Exactly one of `ids` and `embeds` is set."""

    shape: tuple[int, int]  # batch_size, seq_len
    ids: torch.Tensor | None  # [batch_size, seq_len] int32 or int64
    mask: torch.Tensor | None  # [batch_size, seq_len] int64 or uint8
    positions: torch.Tensor | None  # [batch_size, seq_len] int64
    embeds: torch.Tensor | None  # [batch_size * seq_len, hidden_size]
    types: torch.Tensor | None  # [batch_size, seq_len] integers; None also of a model that has none

    def part(self, first: int, end: int) -> Padded:
        """Sequences `first` to `end - 1`, or to the last."""
        batch_size, seq_len = self.shape
        end = min(end, batch_size)
        if (first, end) == (0, batch_size):
            return self
        ids, mask, positions, types = (
            None if grid is None else grid[first:end] for grid in (self.ids, self.mask, self.positions, self.types)
        )
        embeds = None if self.embeds is None else self.embeds[first * seq_len : end * seq_len]
        return Padded((end - first, seq_len), ids, mask, positions, embeds, types)

    def pack_into(
        self, b: Buffers, errors: torch.Tensor, numbers: torch.Tensor, config: DistilBertConfig, *, keep_first: bool
    ) -> None:
        """Enqueue the packing of this batch into a bucket's buffers.

        Args:
            b: of a bucket that holds it.
            errors: `[1]`; wrong values set bits of it.
            numbers: 0, 1, 2, … int64 on the device, at least seq_len: the positions where none are given. So there are
                fewer kernels to compile than with none.
            config: gives the limits.
            keep_first: pack position 0 also where it is masked.
        """
        positions, limit = self.positions, config.max_position_embeddings
        if positions is None:
            positions = numbers[: self.shape[1]]
        if self.types is not None:
            positions, limit = self._typed(positions, errors, config), config.num_position_rows
        pack(
            None if self.ids is None else b.input_ids,
            b.position_ids, b.index, b.cu_seqlens, b.key_lengths, b.wanted, b.query_blocks, errors,
            block_m=b.block_rows, padded_shape=self.shape, padded_ids=self.ids, attention_mask=self.mask,
            padded_positions=positions, keep_first=keep_first,
            vocab_size=config.vocab_size, max_positions=limit,
        )  # fmt: skip

    def _typed(self, positions: torch.Tensor, errors: torch.Tensor, config: DistilBertConfig) -> torch.Tensor:
        """Rows of the table of positions and token types, `[batch_size, seq_len]`; wrong ones set bits of `errors`."""
        assert self.types is not None
        limit = config.max_position_embeddings
        used = True if self.mask is None else self.mask == 1
        for values, most, bit in ((positions, limit, BAD_POSITION), (self.types, config.type_vocab_size, BAD_TYPE)):
            errors |= (((values < 0) | (values >= most)) & used).any() * bit
        return positions + self.types.long() * limit


def check(config: DistilBertConfig, inputs: PaddedInputs) -> Padded:
    """Check what can be known of tensors without their values, as `distilrt.batch.pack_padded` does with arrays.

    Raises:
        InvalidInput: a wrong shape or dtype.
        TooLong: more positions than the model has, and no mask or positions that could make it right.
    """
    shape = check_padded(config, inputs)
    ids, mask, embeds, positions, token_type_ids = inputs
    if shape[1] > config.max_position_embeddings and mask is None and positions is None:
        raise too_long(shape[1] - 1, config)
    return Padded(
        shape,
        ids if ids is None or ids.dtype in INTEGERS else ids.long(),
        None if mask is None else _plain_mask(mask),
        None if positions is None else positions.long().expand(shape),
        None if embeds is None else embeds.detach().reshape(-1, config.hidden_size).float(),
        token_type_ids if config.is_bert else None,
    )


class Errors:
    """A ring of error words on the device, each of which follows into pinned memory behind the call that owns it.

    The host looks whenever a call comes, and waits only where the device is a whole ring of calls behind. Words of good
    calls stay 0; those that were not are cleared before their next use, on the stream of that use. Calls of `next_word`
    and `send` must not overlap; `raise_known` may be called from any thread at any time.
    """

    def __init__(self, device: torch.device) -> None:
        self._words = torch.zeros((_WORDS, 4), dtype=torch.int32, device=device)  # 16 bytes each, aligned for Triton
        self._seen = torch.zeros(_WORDS, dtype=torch.int32, device="cpu", pin_memory=device.type == "cuda")
        self._host = self._seen.numpy()
        self._lock = threading.Lock()
        self._dirty: set[int] = set()  # words that may not be 0 on the device though nobody waits for their news
        self._next = 0

    def next_word(self, wait: Callable[[], None]) -> torch.Tensor:
        """The next call's word `[1]`, which is 0; its `send` must follow.

        Args:
            wait: returns when all earlier calls have been done.

        Raises:
            InvalidInput: news that came while waiting.
        """
        self._next = (self._next + 1) % _WORDS
        if self._host[self._next] == _PENDING:
            wait()
            self._dirty.add(self._next)
        self.raise_known()
        word = self._words[self._next, :1]
        if self._next in self._dirty:
            self._dirty.discard(self._next)
            word.zero_()
        self._host[self._next] = _PENDING
        return word

    def send(self, word: torch.Tensor) -> None:
        """Enqueue the way to the host of the word that `next_word` gave last."""
        self._seen[self._next : self._next + 1].copy_(word, non_blocking=True)

    def raise_known(self) -> None:
        """Raise the errors that have arrived on the host, once.

        Raises:
            InvalidInput: a batch held a wrong value.
        """
        if not np.count_nonzero(self._host):  # nothing has arrived, and nothing is on its way
            return
        with self._lock:
            arrived = (self._host > 0).nonzero()[0]
            if not arrived.size:
                return  # another thread was faster
            bits = int(np.bitwise_or.reduce(self._host[arrived]))
            self._dirty.update(arrived.tolist())
            self._host[arrived] = 0
        found = "; ".join(meaning for bit, meaning in _MEANINGS.items() if bits & bit)
        raise InvalidInput(f"an earlier batch of tensors on the GPU was wrong, and its outputs are NaN: {found}")


def _plain_mask(mask: torch.Tensor) -> torch.Tensor:
    """The mask contiguous, in int64 or uint8, for which kernels are compiled; what is neither 0 nor 1 becomes 2."""
    if mask.dtype is torch.bool:
        return mask.contiguous().view(torch.uint8)
    if mask.dtype not in (torch.int64, torch.uint8):
        mask = (mask != 0).to(torch.uint8) + ((mask != 0) & (mask != 1)).to(torch.uint8)
    return mask.contiguous()
