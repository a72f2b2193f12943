"""Turns on a device: forwards of one model follow one another, whichever threads and streams they come from."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, TypeVar

import torch

from distilrt.errors import BackendError

Result = TypeVar("Result")


class Turns:
    """Turns of one model on a CUDA device; on the CPU, while Triton interprets, of threads alone."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.on_gpu = device, device.type == "cuda"
        self._lock = threading.Lock()
        self._own = self._done = self.event()  # the second is behind the last turn

    def event(self) -> Any:
        """An event of the device; None where there is none."""
        if not self.on_gpu:
            return None
        with self.current():
            return torch.cuda.Event()  # type: ignore[no-untyped-call]

    def current(self) -> AbstractContextManager[Any]:
        """Within, launches go to this device; another may be torch's current one when a call comes."""
        return torch.cuda.device(self._device) if self.on_gpu else nullcontext()

    def turn(self, work: Callable[[], Result], done: Any = None) -> Result:
        """Enqueue work while nobody else uses the model: threads wait for a lock, streams for an event.

        Args:
            work: enqueues it; what it returns is returned.
            done: an event to record behind it; None: one of its own.

        Raises:
            BackendError: the caller's stream is being captured.
        """
        with self._lock, self.current():
            if not self.on_gpu:
                return work()
            if torch.cuda.is_current_stream_capturing():
                raise BackendError(
                    "this model replays CUDA graphs of its own and can't be captured into another; call it outside of "
                    "the capture (with torch.compile: any mode without CUDA graphs)"
                )
            stream = torch.cuda.current_stream()
            stream.wait_event(self._done)
            try:
                return work()
            finally:
                self._done = done or self._own
                self._done.record(stream)

    def wait(self) -> None:
        """Wait for the caller's stream."""
        if self.on_gpu:
            torch.cuda.current_stream(self._device).synchronize()

    def wait_for_all(self) -> None:
        """Wait until the last turn's work is done, on whichever stream; an error of the device is not raised again."""
        if self._done is not None:
            with suppress(RuntimeError):
                self._done.synchronize()

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in pinned memory, which is there after the next `wait`."""
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=self.on_gpu)
        return pinned.copy_(tensor, non_blocking=True)
