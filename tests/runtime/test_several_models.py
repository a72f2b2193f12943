"""Several models in one process compute with one pool of threads, and map the files that they share once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import distilrt
from distilrt.checkpoint import packed
from distilrt.model.config import DistilBertConfig

SHAPE = {"dim": 256, "n_heads": 4, "n_layers": 4, "hidden_dim": 1024, "vocab_size": 20_000}
pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells threads and pages")

_THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
import distilrt

config = distilrt.DistilBertConfig(dim=96, n_heads=3, n_layers=2, hidden_dim=192, vocab_size=99)
names = ("DistilBertModel", "DistilBertForMaskedLM", "DistilBertForSequenceClassification")
tasks = lambda: len(list(Path("/proc/self/task").iterdir()))
before = tasks()
models = [getattr(distilrt, name)(config, num_threads=count) for name, count in zip(names, (3, 2, 3))]
ids = np.arange(320).reshape(8, 40) % 99
alone = [model(ids)[0] for model in models]
print(tasks() - before)
with ThreadPoolExecutor(len(models)) as callers:
    answers = [[callers.submit(model, ids) for model in models] for _ in range(20)]
    for each in answers:
        assert all(np.array_equal(future.result()[0], one) for future, one in zip(each, alone))
    print(tasks() - before - len(models))
"""
_PAGES = """
import sys
import numpy as np
import distilrt

ids = np.arange(19_900).reshape(199, 100)
models = [distilrt.DistilBertModel.from_pretrained(sys.argv[1], dtype=sys.argv[2]) for _ in range(3)]
for model in models:
    model.first_hidden_state(ids)
print(open("/proc/self/smaps").read())
"""


def ran(code: str, *words: str) -> str:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *words], check=True, capture_output=True, text=True, env=environment
    ).stdout


def test_models_share_one_pool_of_threads() -> None:
    """Three models of 3, 2 and 3 threads, by turns and all at once, have the caller and two more."""
    assert ran(_THREADS).split() == ["2", "2"]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_loads_of_a_packed_folder_share_its_pages(tmp_path: Path, dtype: str) -> None:
    model = distilrt.DistilBertModel(DistilBertConfig(**SHAPE), dtype=dtype)  # type: ignore[arg-type]
    packed.write(tmp_path, packed.of(model))
    size = (tmp_path / packed.DATA).stat().st_size / 1024
    # Where the weights are copied, their pages are given back, and those of the words' table in bfloat16 stay.
    copied = dtype == "int8" and model.backend.describe()["weight_bits"] < 8
    held = SHAPE["vocab_size"] * SHAPE["dim"] * 2 / 1024 if copied else size
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", ran(_PAGES, str(tmp_path), dtype), flags=re.M)
    of_file = [each for each in mappings if packed.DATA in each.partition("\n")[0]]

    def total(field: str) -> int:
        return sum(int(value) for each in of_file for value in re.findall(rf"^{field}: +(\d+) kB", each, re.M))

    assert len(of_file) == 3
    assert total("Rss") > 2.5 * held  # each counts all of it, or nothing would be shown
    assert total("Pss") < 1.05 * size  # pages that are mapped thrice count a third each
    assert total("Private_Dirty") == total("Anonymous") == 0
