"""`import distilrt` is quick and pulls in neither torch nor transformers."""

from __future__ import annotations

import subprocess
import sys

import distilrt

HEAVY = ("torch", "transformers", "triton", "tensorflow", "numpy", "tokenizers", "huggingface_hub")


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_pulls_in_nothing_heavy() -> None:
    loaded = _run("import distilrt, sys; print(*sys.modules)").split()
    assert not set(HEAVY) & set(loaded)


def test_models_load_without_torch_and_transformers() -> None:
    code = (
        "import distilrt, sys, numpy as np;"
        "c = distilrt.DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=9);"
        "distilrt.DistilBertForSequenceClassification(c)(np.array([[1, 2, 3]])); distilrt.DistilBertTokenizer;"
        "print(*sys.modules)"
    )
    assert not {"torch", "transformers"} & set(_run(code).split())


def test_import_takes_less_than_400_ms() -> None:
    """In CPU seconds of a fresh interpreter, best of three, so that a busy machine does not matter."""
    code = (
        "import time; t = time.process_time(); import distilrt; distilrt.DistilBertModel; distilrt.DistilBertTokenizer;"
        "print(time.process_time() - t)"
    )
    assert min(float(_run(code)) for _ in range(3)) < 0.4


def test_every_public_name_exists() -> None:
    for name in distilrt.__all__:
        assert getattr(distilrt, name) is not None
    assert set(distilrt.__all__) <= set(dir(distilrt))
