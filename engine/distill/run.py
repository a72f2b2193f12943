"""A distillation from its settings to the folder of the student.

While it runs, all that it has lies in `OUT.training`: the tokenized corpus, the last checkpoint and the settings.
Started again with the same settings, it goes on there. The folder OUT appears once it is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils.memory import should_reduce_batch_size

from distilrt.checkpoint.files import read_object, replacing
from distilrt.distill import outcome
from distilrt.distill.corpora import Corpus, LabelledText, PackedText, write_ids
from distilrt.distill.packed_model import PackedModel
from distilrt.distill.settings import SHORTEST, Settings
from distilrt.distill.student import make_student
from distilrt.distill.teacher import ARCHITECTURES, Teacher, load_teacher
from distilrt.distill.training import CHECKPOINT, Row, Training
from distilrt.errors import BackendError, CheckpointError, InvalidInput, InvalidParameter
from distilrt.model.config import DistilBertConfig
from distilrt.text.auto_tokenizer import load_tokenizer
from distilrt.text.tokenizer import DistilBertTokenizer

_RUN, _IDS, _STUDENT = "run.json", "ids", "student"  # They lie in OUT.training, and the checkpoint.
_OWN = re.compile(rf"(?:{_RUN}|{_IDS}|{_STUDENT}|{CHECKPOINT})|\.(?:{_RUN}|{_IDS}|{CHECKPOINT})\.\d+\.tmp")
_PATIENCE = timedelta(days=2)  # The first process may tokenize a large corpus for hours while others wait.


def distil(settings: Settings, show: Callable[[Row, int], None] = lambda row, steps: None) -> dict[str, Any]:
    """Train a student and write its folder; returns what the model card says of the run.

    `show` gets the losses of each step as it is taken, and how many steps there are. Of several processes, only the
    first shows and returns something.

    Raises:
        InvalidParameter: the folder is there already, or a run with other settings is.
        InvalidInput: the corpus is empty, binary or too small.
        CheckpointError: the teacher or its tokenizer is not fit for it, or the run's own checkpoint is damaged.
        BackendError: out of memory, or the training diverged.
        OSError: a file is not there, or the disk is full.
    """
    started, out = time.perf_counter(), Path(settings.out).expanduser()
    if os.path.lexists(out):
        raise InvalidParameter(f"{out} is there already; give another folder, or remove it")
    work, kind = out.with_name(f"{out.name}.training"), ARCHITECTURES[settings.task]
    with out_of_memory(settings):
        patient = InitProcessGroupKwargs(timeout=_PATIENCE)
        accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patient])
        teacher = load_teacher(settings.teacher, settings.task, accelerator.device)
        tokenizer = _tokenizer(settings, teacher.config)
        torch.manual_seed(settings.seed)
        student = make_student(teacher.config, teacher.weights, kind, random=settings.random_init)
        claimed = _claimed(work, settings, teacher, tokenizer, accelerator.num_processes)
        with accelerator.main_process_first(), claimed:
            corpus = _corpus(settings, teacher.config, tokenizer, work / _IDS, accelerator.num_processes)
        training = Training(PackedModel(student), teacher, corpus, settings, work, accelerator)
        rows = training.run(show)
    if not accelerator.is_main_process:
        return {}
    facts = {
        "folder": str(out), "layers": student.config.n_layers, "layers_of_teacher": teacher.config.num_layers,
        "parameters": student.num_parameters(), "teacher_ran_on": teacher.runs_on, "sequences": len(corpus),
        "steps": training.steps, "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip
    outcome.write(out, work / _STUDENT, student, tokenizer, rows, {"run": facts, "setting": asdict(settings)})
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


def _facts(settings: Settings, teacher: Teacher, tokenizer: DistilBertTokenizer, processes: int) -> dict[str, Any]:
    """What must be the same for a run to go on to the same losses, JSON-ready."""
    found = zlib.crc32(tokenizer.backend_tokenizer.to_str().encode())
    for name in sorted(teacher.weights):
        found = zlib.crc32(np.ascontiguousarray(teacher.weights[name]).data, found)
    files = [[path, (file := os.stat(path)).st_size, file.st_mtime_ns] for path in settings.corpus]
    facts = asdict(settings) | {"corpus": files, "teacher": found, "processes": processes}
    return {name: fact for name, fact in facts.items() if name not in ("out", "save_every")}


@contextmanager
def _claimed(
    work: Path, settings: Settings, teacher: Teacher, tokenizer: DistilBertTokenizer, processes: int
) -> Iterator[None]:
    """Make the folder of the run, and remove it where the block finds that nothing can be trained.

    A folder with a checkpoint must be of this run; another is begun anew.
    """
    for path in settings.corpus:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InvalidInput(f"{path} is no regular file; give text files, which a run reads again when it goes on")
    facts = _facts(settings, teacher, tokenizer, processes)
    work.mkdir(parents=True, exist_ok=True)
    for file in work.iterdir():
        if not _OWN.fullmatch(file.name):
            raise InvalidParameter(f"{file} is no file of a run; move {work} away, or give another --out")
    for file in work.glob(".*.tmp"):  # A process that was killed leaves what it was writing.
        file.unlink()
    before = read_object(work / _RUN) if (work / _RUN).exists() else {}
    if others := [name for name in facts if before.get(name) != facts[name]]:
        if (work / CHECKPOINT).exists():
            raise InvalidParameter(
                f"{work} has a run with another {', another '.join(others)}; give the same as then to go on, or "
                "delete that folder to begin anew"
            )
        (work / _IDS).unlink(missing_ok=True)
        with replacing(work / _RUN) as run:
            run.write(json.dumps(facts).encode())
    try:
        yield
    except (CheckpointError, InvalidInput):
        if not (work / CHECKPOINT).exists():
            shutil.rmtree(work)
        raise


def _corpus(
    settings: Settings, config: DistilBertConfig, tokenizer: DistilBertTokenizer, ids: Path, processes: int
) -> Corpus:
    """The corpus of the task, which must do for one step; `ids` is the file for a tokenized one."""
    most = min(config.max_position_embeddings, tokenizer.model_max_length)
    length = settings.length or most
    if not SHORTEST <= length <= most:
        allowed = f"at least {SHORTEST} and at most {most}, which the teacher reads"
        raise InvalidParameter(f"--length must be {allowed}, found {length}")
    if settings.task == "text-classification":
        if config.num_labels == 1 or config.problem_type not in (None, "single_label_classification"):
            raise CheckpointError(
                f"{settings.teacher} must be a classifier that chooses one of at least 2 labels, found "
                f"{config.num_labels} and problem_type {config.problem_type!r}"
            )
        strict = not settings.soft_weight + settings.hidden_weight
        corpus: Corpus = LabelledText(settings.corpus, tokenizer, length, config, strict)
    else:
        if not ids.exists():
            write_ids(settings.corpus, tokenizer, ids)
        corpus = PackedText(ids, length, tokenizer, config.vocab_size, settings.mask_share, settings.smoothing)
    if len(corpus) < (least := settings.batch_size * settings.accumulation * processes):
        raise InvalidInput(
            f"the corpus makes {len(corpus)} sequences of up to {length} tokens, and one step takes {least}: give more "
            "text, or lower --batch-size, --accumulation or --length"
        )
    return corpus


@contextmanager
def out_of_memory(settings: Settings) -> Iterator[None]:
    """Say what to do where memory does not suffice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's CPU allocator has no class of its own for it
        if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
            raise
        raise BackendError(
            f"out of memory with --batch-size {settings.batch_size}: lower it and raise --accumulation "
            f"({settings.accumulation}) as much, give --checkpointing, or lower --length"
        ) from error
