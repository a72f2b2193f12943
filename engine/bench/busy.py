"""Processes that keep cores busy beside a benchmark, as neighbours on a shared machine do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# It ends with the process that started it, however that ends.
_LOOP = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(10_000))"


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run so many processes of one busy thread each."""
    processes = [subprocess.Popen([sys.executable, "-c", _LOOP], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
