"""The engine: one loaded model, all of its tasks, and any number of callers whose inputs are computed together.

`submit` tokenizes in the caller's thread and queues, `enqueue` leaves long inputs to threads that tokenize; one compute
thread (`distilrt.runtime.worker`) takes packed batches from the queue as fast as the model computes them. HTTP, Ray and
programs are all callers of this class.
"""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from distilrt import tasks
from distilrt.checkpoint.source import split
from distilrt.errors import DistilrtError, InvalidInput, InvalidParameter, Overloaded
from distilrt.model.heads import HEADS
from distilrt.runtime.batcher import PRIORITIES, Batcher
from distilrt.runtime.counters import Counters
from distilrt.runtime.loading import load
from distilrt.runtime.reading import Limits, TaskReading, TextReading, TrialReading
from distilrt.runtime.request import Request
from distilrt.runtime.worker import Worker, because
from distilrt.text.tokenizer import DistilBertTokenizer

if TYPE_CHECKING:
    from typing_extensions import Self

_Input = TypeVar("_Input", str, list[int])
_BATCH_TOKENS = {"cuda": 16384}  # of a backend; on a CPU more than 512 gain little and wait long
_INLINE = 2048  # characters that an event loop can tokenize itself in about a millisecond


class Engine:
    """A model that answers many callers at once. Safe to call from many threads.

    Answers depend neither on what else is computed with them nor on any setting here.

    Args:
        model: folder or hub id of a checkpoint, loaded as what its config says, or a loaded model of `distilrt`.
        tokenizer: the same for the tokenizer; None: the model's.
        name: what callers know the model by; None: the hub id, or the folder's name.
        backend, dtype, num_threads: how to compute, as in the models' `from_pretrained`; not for a loaded model.
        revision, subfolder, token, cache_dir, local_files_only: where to look for both.
        max_batch_tokens: tokens computed together, but at least one sequence; None: 512, on a GPU 16384.
        max_queue_tokens: how many tokens may wait before a request that is taken, whatever its own size; None: what is
            computed in 10 s, as measured, from 32,768 to 1,048,576. Clients share it: one that has less than its share
            in the queue is not refused.
        max_delay: seconds that a batch which isn't full may wait for more requests.

    Attributes:
        model, tokenizer, name, max_batch_tokens: what was loaded and settled.
        tasks: the names of the tasks that the model's head serves.
        task: the first of them, what the model is for unless a request says otherwise.
        sentence: what the checkpoint's sentence-transformers files say; None: there are none.
        prompts: what these files want before a text, by name; "": where a caller names none.

    Raises:
        OSError, CheckpointError, BackendError, TypeError: as `distilrt.pipeline`.
        InvalidParameter: a number that is not allowed.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: DistilBertTokenizer | str | Path | None = None,
        *,
        name: str | None = None,
        backend: str = "auto",
        dtype: str = "auto",
        num_threads: int | None = None,
        revision: str | None = None,
        subfolder: str = "",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        max_batch_tokens: int | None = None,
        max_queue_tokens: int | None = None,
        max_delay: float = 0.0,
    ) -> None:
        for limit, value in (("max_batch_tokens", max_batch_tokens), ("max_queue_tokens", max_queue_tokens)):
            if value is not None and (type(value) is not int or value < 1):
                raise InvalidParameter(f"{limit} must be None or an integer of at least 1, found {value!r}")
        if not _is_seconds(max_delay) and max_delay != 0:
            raise InvalidParameter(f"max_delay must be a number of seconds of at least 0, found {max_delay!r}")
        self.model, self.tokenizer, self.sentence = load(
            model, tokenizer, None, backend=backend, dtype=dtype, num_threads=num_threads, revision=revision,
            subfolder=subfolder, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
        )  # fmt: skip
        self.name = name or _name(model, self.model.architecture)
        served = {task.name: task for task in tasks.TASKS.values() if task.architecture == self.model.architecture}
        outputs = tasks.find("outputs")
        self._tasks = {
            name: task(self.tokenizer, self.model.config, self.sentence)
            for name, task in [*served.items(), (outputs.name, outputs)]
        }
        self.tasks = tuple(served)
        self.task = HEADS[self.model.architecture].task
        self.prompts = self.sentence.prompts if self.sentence else {"": ""}
        self.max_batch_tokens = max_batch_tokens or _BATCH_TOKENS.get(self.model.backend.name, 512)
        self._worker = Worker(
            partial(tasks.compute, self.model),
            Batcher(self.max_batch_tokens, max_delay=max_delay),
            max_queue_tokens=max_queue_tokens,
            name=f"distilrt-{self.name}",
        )
        self._at_exit = weakref.finalize(self, self._worker.close, drain=False)

    def submit(
        self,
        task: str,
        inputs: Any,
        params: Mapping[str, Any] | None = None,
        *,
        client: str = "",
        priority: int = 0,
        deadline: float | None = None,
        limits: Limits | None = None,
    ) -> Request:
        """Tokenize here and now, and queue.

        Args:
            task: one of `tasks`, or another name of it; or "outputs", see `distilrt.tasks.head_outputs`.
            inputs: one input of the task, or a list of them, which is one request: it gets a list of answers, and fails
                as a whole.
            params: the task's parameters.
            client: whose request it is. Clients take turns by tokens: many or long requests of one don't keep others
                waiting.
            priority: from -10 to 10; a higher one goes first, but a lower one that waits gets a batch each second.
            deadline: seconds from now after which the request is dropped if it still waits.
            limits: what the request may have in all; None: anything.

        Returns:
            A `concurrent.futures.Future` of the answer, or of the answers in order. It may raise DeadlineExceeded,
            NotReady (the engine was closed without draining) or BackendError (its batch failed). Once it is done,
            `timing` says where the time went. Cancelling it takes the request out of the queue.

        Raises:
            InvalidInput: an input that the task can't answer; of a list, the message starts with its index.
            TooLong: one that the model can't read whole, where cutting was not asked for; likewise.
            TooLarge: more than `limits` allow.
            InvalidParameter: a task, parameter, priority or deadline that is not allowed.
            BackendError: the engine's own code failed.
            Overloaded: the queue is full; nothing was tokenized.
            NotReady: the engine is closed, or belongs to the process that this one was forked from.
        """
        return self._queue(task, inputs, params, client, priority, deadline, limits, most=math.inf)

    def enqueue(
        self,
        task: str,
        inputs: Any,
        params: Mapping[str, Any] | None = None,
        *,
        client: str = "",
        priority: int = 0,
        deadline: float | None = None,
        limits: Limits | None = None,
    ) -> Request:
        """`submit` for event loops: long inputs wait their turn to be tokenized in another thread, in parts.

        Arguments, result and errors are those of `submit`, but of long inputs InvalidInput, TooLong and TooLarge are
        raised by the result. Cancelling that ends tokenizing, too.
        """
        return self._queue(task, inputs, params, client, priority, deadline, limits, most=_INLINE)

    def read(
        self,
        texts: Sequence[_Input],
        tokenize: Callable[[Sequence[_Input]], list[list[Any]]],
        *,
        client: str = "",
        priority: int = 0,
        deadline: float | None = None,
        limits: Limits | None = None,
    ) -> Request:
        """Queue texts that are tokenized, in parts and beside other requests', for their tokens' sake; or token ids for
        their texts' sake.

        Args:
            texts: any number of them, or of lists of token ids.
            tokenize: from some of them to a list for each one; called from any thread.
            client, priority, deadline, limits: as in `submit`.

        Returns:
            A future of the list of all these lists, in order. It raises as `enqueue`'s, and what `tokenize` raises.

        Raises:
            TooLarge, Overloaded, NotReady: as `submit`.
        """
        end = _checked(priority, deadline)
        request = Request(TextReading(texts, tokenize, limits), client, priority, end, engine=self)
        self._worker.enqueue(request)
        return request

    async def asubmit(
        self,
        task: str,
        inputs: Any,
        params: Mapping[str, Any] | None = None,
        *,
        client: str = "",
        priority: int = 0,
        deadline: float | None = None,
    ) -> Any:
        """The answer. Cancelling this takes the request out of the queue.

        Arguments and errors are those of `submit` and of its future.
        """
        # No variable has the request: an error that it holds would hold it in turn.
        return await asyncio.wrap_future(
            self.enqueue(task, inputs, params, client=client, priority=priority, deadline=deadline)
        )

    def __call__(self, task: str, inputs: Any, /, **params: Any) -> Any:
        """Submit and wait; `params` are the task's. Raises as `submit` and its future do."""
        return self.submit(task, inputs, params).result()

    def warm_up(self) -> None:
        """Compute a few batches, the largest among them, so that the first request finds pages, workspace and measured
        rate.

        Raises:
            BackendError: a batch failed.
            NotReady, Overloaded: as `submit`.
        """
        limit = tasks.longest(self.tokenizer, self.model.config)
        usual = min(limit, 128, self.max_batch_tokens)
        full = [usual] * (self.max_batch_tokens // usual)
        for lengths in ([1], [limit], full, full, full):
            request = Request(TrialReading(lengths))
            self._worker.submit(request)
            request.result()

    def probe(self) -> Request:
        """Queue a request of one token whose answer is None, to see whether the engine works again after a failure.

        Raises:
            NotReady, Overloaded: as `submit`.
        """
        request = Request(TrialReading([1]), priority=PRIORITIES[-1])
        self._worker.submit(request)
        return request

    @property
    def pooling(self) -> str | None:
        """How the checkpoint's sentence-transformers files pool, such as "mean" or "mean+max"; None: there are none, or
        it makes no dense vectors."""
        return "+".join(self.sentence.pooling) if self.sentence and "feature-extraction" in self.tasks else None

    @property
    def ready(self) -> bool:
        """Whether requests are taken and the last batch was computed without a failure."""
        return self._worker.queues.open and not self._worker.failing

    @property
    def open(self) -> bool:
        """Whether requests are taken."""
        return self._worker.queues.open

    @property
    def counters(self) -> Counters:
        """What happened so far."""
        return self._worker.counters

    @property
    def waiting(self) -> tuple[int, int, int]:
        """Requests, sequences and tokens that wait to be computed."""
        queue = self._worker.queues.tokens
        return queue.requests, queue.sequences, queue.tokens

    @property
    def unread(self) -> tuple[int, int]:
        """Requests that are not tokenized yet, and the characters of them whose turn has not come."""
        return len(self._worker.queues.reading), self._worker.queues.texts.tokens

    def describe(self) -> dict[str, Any]:
        """What is served and how, JSON-ready: names, tasks, labels, limits, backend, and the tokens a second of full
        batches, None before one was computed."""
        config, queues = self.model.config, self._worker.queues
        return {
            "name": self.name,
            "architecture": self.model.architecture,
            "task": self.task,
            "tasks": list(self.tasks),
            "labels": config.label_names() if HEADS[self.model.architecture].has_labels else [],
            "max_input_tokens": tasks.longest(self.tokenizer, config),
            "max_batch_tokens": self.max_batch_tokens,
            "max_queue_tokens": queues.max_queue_tokens,
            "tokens_per_second": None if queues.rate is None else round(queues.rate),
            **self.model.backend.describe(),
        }

    def close(self, drain: bool = True, timeout: float | None = None) -> bool:
        """Take no more requests, and return when those taken have ended. Closing twice is harmless.

        Args:
            drain: answer what waits; else that fails with NotReady.
            timeout: seconds to wait for what runs; None: any number.

        Returns:
            Whether nothing runs any more.
        """
        return self._worker.close(drain, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Engine has a queue and threads of its own, which can be neither pickled nor copied; pass "
                        "the model's folder, or a distilrt.pipeline, and make an Engine in each process")  # fmt: skip

    def __repr__(self) -> str:
        return f"Engine(name={self.name!r}, tasks={', '.join(self.tasks)}, dtype={self.model.dtype!r})"

    def _queue(
        self,
        task: str,
        inputs: Any,
        params: Mapping[str, Any] | None,
        client: str,
        priority: int,
        deadline: float | None,
        limits: Limits | None,
        most: float,
    ) -> Request:
        """Queue a request, here tokenized if that takes no longer than that of so many characters."""
        kind, end = tasks.find(task), _checked(priority, deadline)
        found = self._tasks.get(kind.name)
        if found is None:
            raise InvalidParameter(
                f"{kind.name} needs a {kind.architecture}, and {self.name} is a {self.model.architecture}, "
                f"which serves {', '.join(self.tasks)}"
            )
        try:
            request = Request(TaskReading(found, inputs, params or {}, limits), client, priority, end, engine=self)
            send = self._worker.submit if request.reading.cost <= most else self._worker.enqueue
            send(request)
            return request
        except Overloaded:
            self.counters.request(found.name, "shed")
            raise
        except InvalidInput:
            self.counters.request(found.name, "invalid")
            raise
        except DistilrtError:
            raise
        except Exception as cause:
            self.counters.request(found.name, "failed")
            raise because("the inputs could not be tokenized", cause) from cause


def _checked(priority: int, deadline: float | None) -> float | None:
    """The time at which a request is given up, where priority and deadline are allowed.

    Raises:
        InvalidParameter: they are not.
    """
    if type(priority) is not int or priority not in PRIORITIES:
        raise InvalidParameter(
            f"priority must be an integer from {PRIORITIES[0]} to {PRIORITIES[-1]}, found {priority!r}"
        )
    if deadline is None:
        return None
    if not _is_seconds(deadline):
        raise InvalidParameter(f"deadline must be None or a number of seconds above 0, found {deadline!r}")
    return time.monotonic() + deadline


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _name(model: Any, architecture: str) -> str:
    if not isinstance(model, str | Path):
        return architecture
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve().name
    parts = split(str(model))
    return "@".join(_name(part, "") for part in parts) if parts else str(model)
