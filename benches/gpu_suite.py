"""Correctness and speed of distilrt on a GPU: `python benches/gpu_suite.py [--out DIR] [--self-test]`.

Needs a Python with torch, triton, numpy, safetensors, tokenizers, transformers and pytest, and this checkout; nothing
is installed. It ends within 8 minutes; exit code 1: a test of tests/gpu failed, 2: no CUDA device. `--self-test`
measures at a tiny scale on the CPU, in Triton's interpreter. What it does: `distilrt.bench.gpu.suite`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def package() -> Iterator[None]:
    """Make this checkout's `distilrt` importable, here and in child processes, by links in a temporary folder.

    Never by a path to the checkout itself: transformers would take its folder `kernels` for a package of that name.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "distilrt"
        target.mkdir()
        for entry in (ROOT / "engine").iterdir():
            (target / entry.name).symlink_to(entry)
        (target / "kernels").symlink_to(ROOT / "kernels")
        sys.path.insert(0, folder)
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = folder + (os.pathsep + before if before else "")
        yield


if __name__ == "__main__":
    with package():
        from distilrt.bench.gpu import suite

        sys.exit(suite.main(ROOT))
