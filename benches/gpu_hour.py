"""The first hour on a GPU in under ten minutes: `python benches/gpu_hour.py --out DIR [--self-test]`.

Needs a Python with torch, triton, numpy, safetensors, tokenizers and transformers, and this checkout; nothing is
installed. Exit code 1: a check failed, 2: no CUDA device. `--self-test` runs all of it at a tiny scale on the CPU, in
Triton's interpreter. What it does: `distilrt.bench.gpu.hour`.
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
def package() -> Iterator[Path]:
    """Make this checkout's `distilrt` and `tests` importable, here and in child processes, by links in a folder.

    Never by a path to the checkout itself: transformers would take its folder `kernels` for a package of that name.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "distilrt"
        target.mkdir()
        for entry in (ROOT / "engine").iterdir():
            (target / entry.name).symlink_to(entry)
        (target / "kernels").symlink_to(ROOT / "kernels")
        (Path(folder) / "tests").symlink_to(ROOT / "tests")
        sys.path.insert(0, folder)
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = folder + (os.pathsep + before if before else "")
        yield Path(folder)


if __name__ == "__main__":
    with package() as work:
        from distilrt.bench.gpu import hour

        sys.exit(hour.main(ROOT, work))
