"""A distillation from its settings to the folder of the student.

While it runs, all that it has lies in `OUT.training`: the tokenized corpus, the losses, the last checkpoint and the
settings. Started again with the same settings, it goes on there. The folder OUT appears once it is whole.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from distilrt.checkpoint.files import read_object, replacing
from distilrt.distill import outcome
from distilrt.distill.corpora import Corpus, LabelledText, PackedText, write_ids
from distilrt.distill.packed_model import PackedModel
from distilrt.distill.settings import Settings
from distilrt.distill.student import make_student
from distilrt.distill.teacher import ARCHITECTURES, load_teacher
from distilrt.distill.training import CHECKPOINT, Row, Training
from distilrt.errors import BackendError, CheckpointError, InvalidInput, InvalidParameter
from distilrt.model.config import DistilBertConfig
from distilrt.text.auto_tokenizer import load_tokenizer
from distilrt.text.tokenizer import DistilBertTokenizer

_RUN, _IDS = "run.json", "ids"


def distil(settings: Settings, show: Callable[[Row, int], None] = lambda row, steps: None) -> dict[str, Any]:
    """Train a student and write its folder; returns what the model card says of the run.

    `show` gets the losses of each step as it is taken, and how many steps there are. Of several processes, only the
    first shows and returns something.

    Raises:
        InvalidParameter: the folder is there already, or a run with other settings is.
        InvalidInput: the corpus is empty, binary or too small.
        CheckpointError: the teacher or its tokenizer is not fit for it.
        BackendError: out of memory, or the training diverged.
        OSError: a file is not there, or the disk is full.
    """
    started, out = time.perf_counter(), Path(settings.out).expanduser()
    if out.exists():
        raise InvalidParameter(f"{out} is there already; give another folder, or remove it")
    work = out.with_name(f"{out.name}.training")
    with out_of_memory(settings):
        accelerator = Accelerator(cpu=not torch.cuda.is_available())
        teacher = load_teacher(settings.teacher, settings.task, accelerator.device)
        tokenizer = _tokenizer(settings, teacher.config)
        with accelerator.main_process_first():
            _claim(work, settings, accelerator.num_processes)
            corpus = _corpus(settings, teacher.config, tokenizer, work / _IDS)
        torch.manual_seed(settings.seed)
        kind = ARCHITECTURES[settings.task]
        student = make_student(teacher.config, teacher.weights, kind, random=settings.random_init)
        training = Training(PackedModel(student), teacher, corpus, settings, work, accelerator)
        rows = training.run(show)
    if not accelerator.is_main_process:
        return {}
    facts = {
        "folder": str(out), "layers": student.config.n_layers, "layers_of_teacher": teacher.config.num_layers,
        "parameters": student.num_parameters(), "teacher_ran_on": teacher.runs_on, "sequences": len(corpus),
        "steps": training.steps, "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip
    outcome.write(out, student, tokenizer, rows, facts, settings.described())
    shutil.rmtree(work)
    return facts


def _tokenizer(settings: Settings, config: DistilBertConfig) -> DistilBertTokenizer:
    """The teacher's tokenizer, which must fit the teacher."""
    tokenizer = load_tokenizer(settings.teacher)
    if missing := [name for name in ("cls_token", "sep_token", "mask_token") if getattr(tokenizer, name) is None]:
        raise CheckpointError(f"the tokenizer of {settings.teacher} has no {' and no '.join(missing)}; name it there")
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer of {settings.teacher} has {len(tokenizer)} tokens and its model {config.vocab_size}: they "
            "don't belong together; put the model's own tokenizer into the folder"
        )
    return tokenizer


def _claim(work: Path, settings: Settings, processes: int) -> None:
    """Make the folder of the run. One with a checkpoint must be of this run; another is begun anew."""
    files = [[path, (found := Path(path).stat()).st_size, found.st_mtime_ns] for path in settings.corpus]
    facts = {**settings.described(), "files": files, "processes": processes}
    before = read_object(work / _RUN) if (work / _RUN).exists() else {}
    if not (others := [name for name in facts if before.get(name) != facts[name]]):
        return
    if (work / CHECKPOINT).exists():
        raise InvalidParameter(
            f"{work} has a run with another {', '.join(others)}; give the same as then to go on, or delete that folder"
        )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with replacing(work / _RUN) as file:
        file.write(json.dumps(facts).encode())


def _corpus(settings: Settings, config: DistilBertConfig, tokenizer: DistilBertTokenizer, ids: Path) -> Corpus:
    """The corpus of the task; `ids` is the file for a tokenized one."""
    most = min(config.max_position_embeddings, tokenizer.model_max_length)
    length = settings.length or most
    if length > most:
        raise InvalidParameter(f"--length must be at most {most}, which the teacher reads, found {length}")
    corpus: Corpus
    if settings.task == "text-classification":
        labels = dict(config.label2id or {})
        if len(labels) == 1 or config.problem_type not in (None, "single_label_classification"):
            raise CheckpointError(
                f"{settings.teacher} must be a classifier that chooses one of at least 2 labels, found {len(labels)} "
                f"and problem_type {config.problem_type!r}"
            )
        corpus = LabelledText(settings.corpus, tokenizer, length, labels)
    else:
        if not ids.exists():
            write_ids(settings.corpus, tokenizer, ids)
        corpus = PackedText(ids, length, tokenizer, config.vocab_size, settings.mask_share, settings.smoothing)
    if not len(corpus):
        files = ", ".join(settings.corpus)
        raise InvalidInput(f"{files}: no text for one sequence of {length} tokens; give more, or lower --length")
    return corpus


@contextmanager
def out_of_memory(settings: Settings) -> Iterator[None]:
    """Say what to do where memory does not suffice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's CPU allocator has no class of its own for it
        words = f"{type(error).__name__} {error}".lower()
        if not any(sign in words for sign in ("memoryerror", "out of memory", "can't allocate memory")):
            raise
        raise BackendError(
            f"out of memory with --batch-size {settings.batch_size}: lower it and raise --accumulation "
            f"({settings.accumulation}) as much, give --checkpointing, or lower --length"
        ) from error
