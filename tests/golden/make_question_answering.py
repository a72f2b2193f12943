"""Writes question_answering.json: answers of transformers 4.57, whose question-answering pipeline later versions lack.

    pip install --no-deps --target build/transformers4 -r tests/transformers4.txt
    PYTHONPATH=build/transformers4 .venv/bin/python -m tests.golden.make_question_answering

The model is random, small and made anew from a fixed seed wherever it is needed, so that only answers are kept.
"""

from __future__ import annotations

import itertools
import json
import string
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from distilrt import DistilBertConfig, DistilBertTokenizer
from distilrt.checkpoint.weights import save_checkpoint
from distilrt.model.architecture import expected_shapes

ANSWERS = Path(__file__).with_name("question_answering.json")
ARCHITECTURE = "DistilBertForQuestionAnswering"
MAX_LENGTH = 64
SHORT = "Ada Lovelace wrote programs for Charles Babbage's engine in London."
PIECES = (
    "Microsoft hired hyperparameterizations, a São Paulo start-up, for $3.5 billion on 24/7 terms! It's 東京 ☃ too."
)
CONTEXTS = {
    "short": SHORT,
    "pieces": PIECES,
    "windows": " ".join([SHORT, PIECES, "Nobody knows why; she left in 1843."] * 4),
    "word": "Paris",
    "spaces": "  Ada   wrote\n\tprograms  ",
}
PARAMS: list[dict[str, Any]] = [
    {},
    {"top_k": 3},
    {"top_k": 5, "align_to_words": False},
    {"top_k": 2, "max_answer_len": 1},
    {"max_answer_len": 40, "top_k": 4},
    {"max_seq_len": 30, "doc_stride": 7, "top_k": 4},
    {"max_seq_len": 30, "doc_stride": 0},
    {"max_seq_len": 24, "doc_stride": 10, "align_to_words": False, "top_k": 2},
    {"max_seq_len": 48, "max_question_len": 3},
    {"handle_impossible_answer": True},
    {"handle_impossible_answer": True, "top_k": 6, "max_seq_len": 40},
    {"padding": "max_length", "top_k": 2},
]
QUESTION = "Who wrote programs?"


def write_model(folder: Path) -> None:
    """A checkpoint whose answers are pronounced: a few spans take most of the probability."""
    words = sorted({word for text in (*CONTEXTS.values(), QUESTION) for word in text.lower().split() if word.isalpha()})
    letters = string.ascii_lowercase + string.digits
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.punctuation, *letters, *(f"##{c}" for c in letters),
             # Of every third word the model reads pieces.
             *(word for word in words if word.isascii() and len(word) % 3 != 1),
             "##ing", "##ations", "hyper", "##para"]  # fmt: skip
    tokenizer = DistilBertTokenizer({token: i for i, token in enumerate(vocab)}, model_max_length=MAX_LENGTH)
    config = DistilBertConfig(dim=48, n_heads=3, n_layers=2, hidden_dim=80, vocab_size=len(vocab),
                              max_position_embeddings=MAX_LENGTH)  # fmt: skip
    random = np.random.RandomState(3)  # whose stream NumPy promises to keep
    weights = {}
    for name, shape in expected_shapes(config, ARCHITECTURE).items():
        scale = 1.5 * shape[1] ** -0.5 if len(shape) == 2 and "embeddings" not in name else 0.3
        scale *= 4 if name.startswith("qa_outputs.weight") else 1
        centre = float("norm" in name.lower() and name.endswith("weight"))
        weights[name] = (random.standard_normal(shape) * scale + centre).astype(np.float32)
    save_checkpoint(folder, config, weights, ARCHITECTURE)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Answer every case; refuse to where an order would hang on the last digits."""
    import transformers

    assert transformers.__version__.startswith("4.57"), transformers.__version__
    warnings.simplefilter("ignore")
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        make: Any = transformers.pipeline
        pipeline = make("question-answering", model=folder, device="cpu")
        for (name, context), params in itertools.product(CONTEXTS.items(), PARAMS):
            answers = pipeline(question=QUESTION, context=context, **params)
            listed = answers if isinstance(answers, list) else [answers]
            # With more spans asked for than there are, transformers fills up with impossible ones.
            scores = [answer["score"] for answer in listed if answer["score"] > 0]
            assert (-np.diff(scores) > 1e-5).all(), (name, params, scores)
            cases.append({"context": name, "params": params, "answers": answers})
    ANSWERS.write_text(json.dumps({"transformers": transformers.__version__, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
