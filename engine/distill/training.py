"""The training loop: from a student, a teacher and a corpus to a trained student, whatever interrupts it.

What a step does depends on the seed and the number of the step alone, hence a run that was killed and started again
gives the losses of one that was not. Several processes (torchrun, `accelerate launch`) each take their part of every
batch; accelerate averages their gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from accelerate import Accelerator

from distilrt.checkpoint.files import replacing
from distilrt.distill.corpora import Corpus
from distilrt.distill.losses import triple
from distilrt.distill.packed_model import PackedModel
from distilrt.distill.settings import Settings
from distilrt.distill.teacher import Teacher
from distilrt.errors import BackendError, CheckpointError

CHECKPOINT = "checkpoint.pt"
Row = dict[str, Any]  # a step's number, losses and learning rate
_ORDER, _MASKS, _DROPOUT = range(3)  # Each use of random numbers has a stream of its own.
_BETAS, _EPS = (0.9, 0.98), 1e-6  # The paper's AdamW has these, and no weight decay.


class Training:
    """A student in training, `steps` steps in all.

    Without a teacher only the hard loss counts. The corpus must do for one step. The folder, which must be there, is
    for the checkpoint.
    """

    def __init__(
        self, student: PackedModel, teacher: Teacher | None, corpus: Corpus, settings: Settings, folder: Path,
        accelerator: Accelerator,
    ) -> None:  # fmt: skip
        self._student, self._teacher, self._corpus = student, teacher, corpus
        self._settings, self._folder, self._accelerator = settings, folder, accelerator
        whole = settings.batch_size * accelerator.num_processes * settings.accumulation
        self._steps_per_epoch = len(corpus) // whole
        self._order = -1, np.empty(0, np.int64)  # an epoch, and the sequences in its order
        self.steps = max(1, round(settings.epochs * self._steps_per_epoch))
        if settings.checkpointing:
            old = student.model.gradient_checkpointing_enable  # its name until transformers 6
            getattr(student.model, "activation_checkpointing_enable", old)({"use_reentrant": False})
        optimizer = torch.optim.AdamW(student.parameters(), settings.learning_rate, _BETAS, _EPS, weight_decay=0.0)
        self._model, self._optimizer = accelerator.prepare(student.train(), optimizer)
        native = accelerator.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        self._narrow = native if settings.bfloat16 is None else settings.bfloat16

    def run(self, show: Callable[[Row, int], None]) -> list[Row]:
        """Take the steps that are left, and return the losses of all, also of those before an interruption.

        `show` gets the losses of each step that is taken, and how many steps there are.

        Raises:
            BackendError: the losses are not finite any more.
            CheckpointError: the last checkpoint is damaged.
            OSError: the disk is full; the last checkpoint is whole.
        """
        rows = self._resume()
        while len(rows) < self.steps:
            rows.append(self._step(len(rows)))
            if self._accelerator.is_main_process:
                show(rows[-1], self.steps)
                if len(rows) % self._settings.save_every == 0 and len(rows) < self.steps:
                    self._save(rows)
        return rows

    def _step(self, step: int) -> Row:
        """Take one step, and return its losses."""
        settings, accelerator = self._settings, self._accelerator
        torch.manual_seed(int(self._random(_DROPOUT, step, accelerator.process_index).integers(2**62)))
        rising = round(settings.warm_up * self.steps)
        share = (step + 1) / rising if step < rising else (self.steps - step) / (self.steps - rising)
        for group in self._optimizer.param_groups:
            group["lr"] = share * settings.learning_rate
        total = torch.zeros(4, device=accelerator.device)
        for part in range(settings.accumulation):
            last = part + 1 == settings.accumulation
            with nullcontext() if last else accelerator.no_sync(self._model):
                total += self._backward(step, part)
        accelerator.clip_grad_norm_(self._model.parameters(), settings.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        found = (accelerator.reduce(total, "mean") / settings.accumulation).tolist()
        if not all(map(math.isfinite, found)):
            advice = f"delete {self._folder} and start again with a lower --learning-rate or --clip"
            raise BackendError(f"the losses of step {step + 1} are not finite: the training diverged; {advice}")
        named = dict(zip(("loss", "soft", "hard", "hidden"), found, strict=True))
        return {"step": step + 1, **named, "learning_rate": share * settings.learning_rate}

    def _backward(self, step: int, part: int) -> torch.Tensor:
        """Add the gradients of one forward pass; returns its weighted loss and the three."""
        settings, accelerator = self._settings, self._accelerator
        epoch, within = divmod(step, self._steps_per_epoch)
        process, size = accelerator.process_index, settings.batch_size
        first = ((within * settings.accumulation + part) * accelerator.num_processes + process) * size
        if self._order[0] != epoch:
            self._order = epoch, self._random(_ORDER, epoch).permutation(len(self._corpus))
        numbers = self._order[1][first : first + size]
        examples = self._corpus.examples(numbers, self._random(_MASKS, step, part, process))
        target = self._teacher.answer(examples) if self._teacher else None
        with torch.autocast(accelerator.device.type, torch.bfloat16, self._narrow):
            answer = self._model(*self._student.inputs(examples, accelerator.device))
        labels = torch.from_numpy(examples.labels).to(accelerator.device)
        losses = triple(answer, target, labels, settings.temperature)
        weights = settings.soft_weight, settings.hard_weight, settings.hidden_weight
        loss = losses @ torch.tensor(weights, dtype=losses.dtype, device=losses.device)
        accelerator.backward(loss / settings.accumulation)
        return torch.stack([loss, *losses]).detach()

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self._settings.seed, *stream])

    def _save(self, rows: list[Row]) -> None:
        """Write a checkpoint in the place of the last one, as a whole or not at all."""
        path, model = self._folder / CHECKPOINT, self._student.state_dict()
        try:
            with replacing(path) as file:
                torch.save({"rows": rows, "model": model, "optimizer": self._optimizer.state_dict()}, file)
        except RuntimeError as error:  # torch's writer hides the error of the file
            raise OSError(f"can't write {path}: {error.__context__ or error}; is the disk full?") from error

    def _resume(self) -> list[Row]:
        """Take up the last checkpoint, if there is one; returns the losses up to there."""
        rows: list[Row] = []
        if (path := self._folder / CHECKPOINT).exists():
            if not is_zipfile(path):
                raise CheckpointError(f"{path} is damaged; delete {self._folder} to begin anew")
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._student.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            rows = state["rows"]
        self._accelerator.wait_for_everyone()  # Nobody writes before all have read.
        return rows
