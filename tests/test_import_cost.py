"""`import distilrt` pulls in neither torch nor transformers, nor anything else that is heavy."""

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


def test_a_model_and_a_tokenizer_load_four_packages() -> None:
    """Their modules are most of the time until a process can load a model, which `distilrt bench startup` measures."""
    code = (
        "import sys; before = set(sys.modules);"
        "import distilrt; distilrt.DistilBertModel; distilrt.DistilBertTokenizer;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    assert set(_run(code).split()) == {"distilrt", "numpy", "safetensors", "tokenizers"}


def test_every_public_name_exists() -> None:
    for name in distilrt.__all__:
        assert getattr(distilrt, name) is not None
    assert set(distilrt.__all__) <= set(dir(distilrt))
