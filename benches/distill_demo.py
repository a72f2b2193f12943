"""`make distill-demo`: the paper's ablation at a scale that two cores allow, from nothing but text of this machine.

A narrow BERT of 12 layers is pre-trained on the documentation of Python and on manual pages; its student is distilled
by the triple loss, without each of the three losses, and from random weights. Rows of held-out masked words, parameters
and speed go to benches/results/distill.jsonl.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from pydoc_data import topics
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from tokenizers import BertWordPieceTokenizer
from tqdm import tqdm

from distilrt.bench.findings import facts
from distilrt.cpu_count import usable_cores
from distilrt.distill.corpora import Examples, PackedText, write_ids
from distilrt.distill.packed_model import PackedModel
from distilrt.distill.run import distil
from distilrt.distill.settings import Settings
from distilrt.distill.teacher import Teacher, load_teacher, on_torch
from distilrt.distill.training import Row, Training
from distilrt.text.tokenizer import DistilBertTokenizer

reference: Any = transformers  # Its classes have types that its configs do not fit.

RESULTS = Path("benches/results/distill.jsonl")
MANUAL_PAGES, MANUAL_CHARACTERS = Path("/usr/share/man"), 1_500_000
# So few steps leave no model time to learn by heart, hence no dropout; weights that start at 0.02 learn more slowly.
SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 12, "intermediate_size": 256,
         "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0, "initializer_range": 0.05}  # fmt: skip
BERT_BASE = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12, "intermediate_size": 3072}
VOCABULARY, LENGTH, BATCH, HELD_OUT = 2000, 64, 32, 20  # every 20th document is held out
TEACHER_STEPS, STUDENT_STEPS = 2000, 500
ABLATION: dict[str, dict[str, Any]] = {
    "triple loss": {},
    "without soft": {"soft_weight": 0.0},
    "without masked words": {"hard_weight": 0.0},
    "without hidden": {"hidden_weight": 0.0},
    "triple loss, random start": {"random_init": True},
}
CPU = torch.device("cpu")


def documents() -> Iterator[str]:
    """Python's reference, the standard library's docstrings, and manual pages in English, as far as they are here."""
    yield from topics.topics.values()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        yield "\n".join(filter(None, (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))))
    left = MANUAL_CHARACTERS
    for path in sorted(MANUAL_PAGES.glob("man[1-8]/*.gz")):
        if left > 0:
            text = gzip.decompress(path.read_bytes()).decode("utf-8", "ignore")
            lines = [line for line in text.splitlines() if line[:1] not in (".", "'")]
            page = re.sub(r"\\f.|\\[&|^]", "", "\n".join(lines)).replace("\\-", "-")
            left -= len(page)
            yield page


def write_corpus(folder: Path) -> tuple[Path, Path]:
    """Files of documents to train on and of those held out, with a blank line between two."""
    files = folder / "train.txt", folder / "held-out.txt"
    with files[0].open("w", encoding="utf-8") as train, files[1].open("w", encoding="utf-8") as held:
        for number, text in enumerate(documents()):
            lines = [line for line in text.replace("\0", "").splitlines() if line.strip()]
            (train if number % HELD_OUT else held).write("\n".join(lines) + "\n\n")
    return files


def make_tokenizer(corpus: Path, folder: Path) -> DistilBertTokenizer:
    """A WordPiece vocabulary of the corpus's own words, saved beside the teacher."""
    trained = BertWordPieceTokenizer()
    trained.train([str(corpus)], vocab_size=VOCABULARY, show_progress=False)
    tokenizer = DistilBertTokenizer(trained.get_vocab(), model_max_length=LENGTH)
    tokenizer.save_pretrained(folder)
    return tokenizer


def epochs(steps: int, corpus: PackedText) -> float:
    """How often the corpus is read in so many steps."""
    return steps / (len(corpus) // BATCH)


def pretrain(folder: Path, corpus: PackedText, settings: Settings) -> None:
    """Train the teacher on masked words alone, by the code that trains students."""
    torch.manual_seed(0)
    config = reference.BertConfig(**SHAPE, vocab_size=VOCABULARY, max_position_embeddings=LENGTH)
    model: Any = reference.BertForMaskedLM(config)
    training = Training(PackedModel(model), None, corpus, settings, folder, Accelerator(cpu=True))
    bar = tqdm(desc="teacher", total=training.steps, unit=" steps", disable=None)

    def show(*_: object) -> None:
        bar.update()

    training.run(show)
    model.save_pretrained(folder)


def train_student(settings: Settings) -> None:
    """Distil on one core, since another student trains beside."""
    torch.set_num_threads(1)
    distil(settings)


def held_out(corpus: PackedText) -> list[Examples]:
    """Masked batches, the same for every model."""
    starts = range(0, len(corpus), BATCH)
    return [corpus.examples(np.arange(len(corpus))[s : s + BATCH], np.random.default_rng(s)) for s in starts]


def accuracy(model: Teacher, batches: list[Examples]) -> tuple[float, int]:
    """The share of masked words that are a model's first choice, and how many were asked for."""
    right = np.concatenate([model.answer(batch)[1].argmax(dim=1).numpy() == batch.labels for batch in batches])
    return float(right.mean()), len(right)


def rates(models: dict[str, Teacher], batches: list[Examples], rounds: int) -> dict[str, float]:
    """Tokens a second, the median of rounds in which the models take turns; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            start = time.perf_counter()
            for batch in batches:
                model.answer(batch)
            seconds[name].append(time.perf_counter() - start)
    tokens = sum(len(ids) for batch in batches for ids in batch.sequences)
    return {name: round(tokens / statistics.median(each[1:])) for name, each in seconds.items()}


def teacher_rows(folder: Path, name: str, batches: list[Examples], rounds: int) -> Row:
    """The teacher's forward pass on this engine beside the same in torch: hidden states, and logits of masked words."""
    engine = load_teacher(str(folder), "masked-lm", CPU)
    model = reference.BertForMaskedLM.from_pretrained(folder)
    both = {"engine": engine, "torch": on_torch(engine.config, {}, model, CPU)}
    outputs = [each.answer(batches[0])[1] for each in both.values()]
    found = rates(both, batches, rounds)
    return {
        "bench": "teacher", "model": name, "runs_on": engine.runs_on, "engine_tokens_per_s": found["engine"],
        "torch_tokens_per_s": found["torch"], "gain": round(found["engine"] / found["torch"], 2),
        "max_difference": float(f"{(outputs[0] - outputs[1]).abs().max().item():.2g}"),
    }  # fmt: skip


def base_rows(folder: Path) -> Row:
    """The same of a BERT-base with random weights, two sequences of 128 tokens."""
    torch.manual_seed(0)
    reference.BertForMaskedLM(reference.BertConfig(**BERT_BASE)).save_pretrained(folder)
    ids = np.random.default_rng(0).integers(1000, 30000, (2, 128)).astype(np.int32)
    rows = np.arange(0, ids.size, 7)
    return teacher_rows(folder, "BERT-base", [Examples(list(ids), rows, rows)], 5)


def main() -> None:
    """Train, measure, and keep the rows."""
    reference.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # Threads that share products as small as these gain next to nothing.
    started, known = time.perf_counter(), facts(usable_cores())

    def keep(**row: Any) -> None:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row | known | {"seconds": round(time.perf_counter() - started)}, default=str) + "\n")
        print(json.dumps(row))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (teacher := folder / "teacher").mkdir()
        train, held = write_corpus(folder)
        tokenizer = make_tokenizer(train, teacher)
        corpora = []
        for file in (train, held):
            write_ids([str(file)], tokenizer, file.with_suffix(".ids"))
            corpora.append(PackedText(file.with_suffix(".ids"), LENGTH, tokenizer, VOCABULARY, 0.15, 0.0))
        batches = held_out(corpora[1])
        shared: dict[str, Any] = {"corpus": [str(train)], "length": LENGTH, "batch_size": BATCH, "accumulation": 1,
                                  "save_every": 10**6, "teacher": str(teacher), "bfloat16": False}  # fmt: skip
        settings = Settings(**shared, out="", epochs=epochs(TEACHER_STEPS, corpora[0]), soft_weight=0, hard_weight=1,
                            hidden_weight=0, learning_rate=4e-3, warm_up=0.1)  # fmt: skip
        pretrain(teacher, corpora[0], settings)
        students = [Settings(**shared | change, out=str(folder / title), epochs=epochs(STUDENT_STEPS, corpora[0]),
                             learning_rate=1e-3) for title, change in ABLATION.items()]  # fmt: skip
        with ProcessPoolExecutor(usable_cores(), get_context("spawn")) as pool:
            list(tqdm(pool.map(train_student, students), "students", len(students), disable=None))
        torch.set_num_threads(usable_cores())
        models = {title: load_teacher(str(folder / title), "masked-lm", CPU) for title in ("teacher", *ABLATION)}
        speeds = rates({title: models[title] for title in ("teacher", "triple loss")}, batches, 5)
        for title, model in models.items():
            share, asked = accuracy(model, batches)
            steps = TEACHER_STEPS if title == "teacher" else STUDENT_STEPS
            parameters = reference.AutoModelForMaskedLM.from_pretrained(folder / title).num_parameters()
            keep(bench="ablation", model=title, layers=model.config.num_layers, parameters=parameters,
                 steps=steps, tokens_read=steps * BATCH * LENGTH, masked_words=asked, accuracy=round(share, 4),
                 tokens_per_s=speeds.get(title))  # fmt: skip
        keep(**teacher_rows(teacher, "12 layers of 64", batches, 5))
        keep(**base_rows(folder / "base"))


if __name__ == "__main__":
    main()
