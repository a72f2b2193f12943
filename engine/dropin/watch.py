"""Notices that tensors are not what they were when their numbers were packed, however they were written to.

torch counts in-place writes, but not those of fused optimizers, nor those through `tensor.data` or a NumPy view. So
optimizers report their steps here, and numbers are compared: a sample of each tensor at every look, and everything in
turn, block by block, in a hundredth of the time that the caller computes.
"""

from __future__ import annotations

import threading
import types
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from distilrt import _C

_SAMPLES = 8  # words of each tensor that every look compares
_ROWS, _COLUMNS = 64, 127  # a block in words of 8 bytes; the odd width lets a swap of two rows of a weight be noticed
_BLOCK = _ROWS * _COLUMNS
_BLOCKS_A_SECOND = 80e6 / (8 * _BLOCK)  # blocks compared a second of computing: a hundredth of what one core reads
_ODD = np.random.default_rng(0).integers(0, 2**62, _BLOCK) * 2 + 1  # odd, so that no product hides a difference

_NATIVE = hasattr(torch.Tensor, "__dlpack_c_exchange_api__")  # torch >= 2.10
_watches: weakref.WeakSet[Watch] = weakref.WeakSet()
_lock = threading.Lock()  # of _watches


class Watch:
    """Says whether tensors were written to, or got other memory, since this object was made.

    Contents are compared on the CPU alone. The memory that tensors had is kept, so that no other can take its address.

    Args:
        tensors: several may be the same.
        names: of the tensors, for messages.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], names: Sequence[str]) -> None:
        self._stale = False
        self._states = _states(tensors)
        self._known = frozenset(map(id, tensors))
        with _lock:
            _watches.add(self)
        self._contents = _Contents({name: tensor.detach() for name, tensor in zip(names, tensors, strict=True)})

    def changed(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether `tensors`, which stand now where the watched ones stood, differ from what those were; for good."""
        if _states(tensors) != self._states or self._contents.differ():
            self._stale = True
        return self._stale

    def computed(self, seconds: float) -> None:
        """Take note of how long the caller computed since it last looked."""
        self._contents.credit += seconds * _BLOCKS_A_SECOND

    def stepped(self, parameters: Iterable[torch.Tensor]) -> None:
        """Take note that an optimizer wrote to parameters."""
        if not self._known.isdisjoint(map(id, parameters)):
            self._stale = True


def _states(tensors: Sequence[torch.Tensor]) -> object:
    """How often each tensor was written to in place, as torch counts it, and where it is and how it lies there."""
    if _NATIVE:
        try:
            return _C.tensor_states(tuple(tensors), torch.Tensor)
        except (BufferError, RuntimeError):  # one that is on no device, or was made in inference mode
            pass
    return [
        (0 if each.is_inference() else each._version, each.data_ptr(), each.dtype, each.shape, each.stride())
        for each in tensors
    ]


class _Contents:
    """The numbers of tensors as they were, by samples and checksums."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._held = tensors
        self.credit = 0.0  # blocks that may be compared
        self._next = 0
        self._blocks: list[tuple[str, npt.NDArray[np.int64], int]] = []  # name, words and their checksum
        places = [np.empty(0, np.int64)]
        for (address, nbytes), name in _spans(tensors).items():
            end = address + nbytes
            words = _memory(address // 8, -(-end // 8), "<i8")
            whole = len(words) // _BLOCK
            sums = words[: whole * _BLOCK].reshape(whole, _ROWS, _COLUMNS).sum(1) @ _ODD[:_COLUMNS]
            sums = [*sums.tolist(), _checksum(words[whole * _BLOCK :])]
            self._blocks += [(name, words[i * _BLOCK :][:_BLOCK], number) for i, number in enumerate(sums)]
            places.append(np.linspace(address // 4, -(-end // 4) - 1, _SAMPLES).astype(np.int64))
        every = np.concatenate(places)
        first = int(every.min(initial=2**62))
        # One view from the first sample to the last, of which nothing between is read: one call for all tensors.
        self._places = every - first
        self._view = _memory(first, int(every.max(initial=first)) + 1, "<u4") if len(every) else np.empty(0, np.uint32)
        self._sample = self._view.take(self._places).tobytes()

    def differ(self) -> bool:
        """Compare the sample and as many blocks as there is credit for."""
        if self._view.take(self._places).tobytes() != self._sample:
            return True
        number = min(int(self.credit), len(self._blocks))
        self.credit -= int(self.credit)
        for _ in range(number):
            self._next = (self._next + 1) % len(self._blocks)
            name, words, expected = self._blocks[self._next]
            if _checksum(words) != expected:
                warnings.warn(
                    f"{name} was written to in a way that torch does not count, for example through .data or a NumPy "
                    "view, and in so few places that answers since then may be of its old numbers; those from now on "
                    "are not. Write under torch.no_grad() instead, or accelerate again after writing",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return True
        return False


def _spans(tensors: Mapping[str, torch.Tensor]) -> dict[tuple[int, int], str]:
    """First address and number of bytes of what tensors on the CPU lie in, to the name of one that does."""
    spans = {}
    for name, tensor in tensors.items():
        if tensor.device.type == "cpu" and tensor.numel():
            reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
            spans[tensor.data_ptr(), (reach + 1) * tensor.element_size()] = name
    return spans


def _memory(start: int, stop: int, dtype: str) -> npt.NDArray[Any]:
    """A read-only view of this process's memory, from word `start` to before word `stop`."""

    data = start * np.dtype(dtype).itemsize, True
    interface = {"version": 3, "typestr": dtype, "shape": (stop - start,), "data": data}
    return np.asarray(types.SimpleNamespace(__array_interface__=interface))


def _checksum(words: npt.NDArray[np.int64]) -> int:
    """A number that differs after any one change, and almost surely after several."""
    if len(words) == _BLOCK:
        words = words.reshape(_ROWS, _COLUMNS).sum(0)
    return int(np.dot(words, _ODD[: len(words)]))


def _report_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if torch.compiler.is_compiling():
        return
    with _lock:
        watches = list(_watches)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for watch in watches:
        watch.stepped(parameters)


register_optimizer_step_post_hook(_report_step)
