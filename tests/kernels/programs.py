"""Several programs of a kernel at once in Triton's interpreter, which by itself runs one after the other.

Each runs in a process of its own, over the same memory; so programs can wait for one another.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch
from triton.runtime import interpreter

SECONDS = 240.0  # Programs that wait for ever are ended after so many.


def run_at_once(programs: int, launch: Callable[[], None], tensors: list[torch.Tensor]) -> None:
    """Do a launch of one program as so many programs; `tensors` are those that more than one of them touches.

    Raises:
        TimeoutError: one did not end.
    """
    for tensor in tensors:
        tensor.share_memory_()  # type: ignore[no-untyped-call]
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=_run, args=(number, programs, launch), daemon=True) for number in range(programs)]
    for process in running:
        process.start()
    for process in running:
        process.join(SECONDS)
    ended = [process.exitcode for process in running]
    for process in running:
        process.kill()
    if None in ended:
        raise TimeoutError(f"of {programs} programs {ended.count(None)} did not end")
    assert ended == [0] * programs


def _run(number: int, programs: int, launch: Callable[[], None]) -> None:
    builder: Any = interpreter.interpreter_builder
    executor: Any = interpreter.GridExecutor
    builder.set_grid_dim = lambda *_: setattr(builder, "grid_dim", (programs, 1, 1))
    builder.set_grid_idx = lambda *_: setattr(builder, "grid_idx", (number, 0, 0))
    executor._restore_args_dev = lambda *_: None  # copies memory that others write in the meantime onto itself
    torch.set_num_threads(1)
    launch()
