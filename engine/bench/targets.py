"""The engines and servers that a benchmark can measure, behind the load generator's `Target`.

An engine here runs in the process that calls it, this package's from texts and peers from token ids; a server is asked
over HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distilrt.bench import peers
from distilrt.bench.load import Target, TargetError
from distilrt.bench.peer import Logits
from distilrt.bench.peers import OURS
from distilrt.bench.samples import Samples
from distilrt.cpu_count import usable_cores
from distilrt.errors import DistilrtError, InvalidParameter
from distilrt.model.config import DistilBertConfig

DTYPES = ("auto", "float32", "float16", "bfloat16", "int8")


@dataclass(frozen=True, slots=True)
class Spec:
    """What to measure.

    Attributes:
        name: of `peers.ENGINES`, or a server's URL; several with commas are replicas, which get requests in turn.
        dtype: what it computes in; of a server, what it is said to.
        backend: of distilrt.
        model: folder or hub id; for peers a copy made for them, to whose folder they may add.
        form: of `peers.ENGINES`; empty: a server, or distilrt's `Engine`, which batches what waits.
        threads: of an engine; None: all usable cores.
        wire: format of a server, a key of `wire.FORMATS`.
        served: what the server calls the model, where its format asks for a name.
        key: bearer key of a server.
        in_flight: requests at a time of a server's offline runs, and of every target while `peak` looks for its limit.
        title: what rows call it instead of its name.
    """

    name: str
    dtype: str
    model: str
    backend: str = "auto"
    form: str = ""
    threads: int | None = None
    wire: str = "hf"
    served: str = "default"
    key: str | None = None
    in_flight: int = 32
    title: str = ""

    @property
    def is_url(self) -> bool:
        """Whether it is a server."""
        return "://" in self.name

    @property
    def named(self) -> str:
        """With its form and the dtype that was asked for."""
        return " ".join(filter(None, (self.label, self.form, self.dtype))).removesuffix(" auto")

    @property
    def label(self) -> str:
        """Short, and different for every server of a run."""
        if self.title:
            return self.title
        if self.is_url:
            urls = [urlsplit(url) for url in self.name.split(",")]
            return f"{','.join(url.netloc + url.path.rstrip('/') for url in urls)} {self.wire}"
        return self.name

    def suits(self, samples: Samples, many: bool) -> bool:
        """Whether its form is one for these samples, of which it is sent one batch after the other, or many at once."""
        if not self.form:
            return True
        form = peers.ENGINES[self.name][self.form]
        return form.throughput if many else form.latency and (samples.fixed or not form.fixed)


def parse(text: str, dtype: str) -> tuple[str, str]:
    """Name and dtype of `distilrt[:DTYPE]` or a URL; `dtype` is for those that name none.

    Raises:
        InvalidParameter: another engine, an unknown dtype, or a URL that is not http.
    """
    if "://" in text:
        for url in text.split(","):
            if urlsplit(url).scheme != "http" or not urlsplit(url).hostname:
                raise InvalidParameter(
                    f"a server's URL is http://HOST:PORT[/PATH], found {url!r}; put a proxy before https"
                )
        return text, dtype
    name, _, own = text.partition(":")
    if name != OURS:
        raise InvalidParameter(
            f"a target is {OURS}, {OURS}:DTYPE or http://…, found {text!r}; other engines: distilrt bench compare"
        )
    if (own or dtype) not in DTYPES:
        raise InvalidParameter(f"a dtype is one of {', '.join(DTYPES)}; found {own or dtype!r}")
    return name, own or dtype


class DistilrtTarget(Target):
    """This package's `Engine`: what a program with many callers gets, from text to JSON-ready answer."""

    def __init__(self, spec: Spec) -> None:
        from distilrt import __version__
        from distilrt.runtime.engine import Engine

        self._warm = False
        self._engine = Engine(spec.model, backend=spec.backend, dtype=spec.dtype, num_threads=spec.threads)
        facts = self._engine.describe()
        self.dtype = facts["dtype"]
        self.version = f"{__version__} {facts['backend']} {facts.get('isa', facts.get('device', ''))}".strip()

    async def prepare(self, samples: Samples) -> None:
        """The first time, measure the rate that bounds the queue."""
        self._samples = samples
        if not self._warm:
            self._warm = True
            await asyncio.to_thread(self._engine.warm_up)

    async def answer(self, indices: Sequence[int]) -> list[Any]:
        samples = self._samples
        try:
            found: list[Any] = await self._engine.asubmit(
                samples.task, [samples.inputs[i] for i in indices], samples.params
            )
        except DistilrtError as error:
            raise TargetError(type(error).__name__) from error
        return found

    async def answer_all(self, indices: Sequence[int]) -> list[Any]:
        """The packed batches of `distilrt run`, without the queue."""
        from distilrt import tasks

        engine, samples = self._engine, self._samples
        inputs = [samples.inputs[i] for i in indices]
        task = tasks.find(samples.task)(engine.tokenizer, engine.model.config, engine.sentence)
        return list(tasks.run(engine.model, task, inputs, samples.params))

    async def close(self) -> None:
        await asyncio.to_thread(self._engine.close)


class PeerTarget(Target):
    """A form of `peers`, from token ids to a classifier's logits."""

    def __init__(self, spec: Spec) -> None:
        self._peer = peers.create(spec.name, spec.form, spec.dtype)
        self._peer.load(Path(spec.model), spec.threads or usable_cores())
        self._labels = DistilBertConfig.from_pretrained(spec.model).label_names()
        self.dtype, self.version = spec.dtype, self._peer.version

    async def prepare(self, samples: Samples) -> None:
        self._inputs = samples.inputs

    async def answer(self, indices: Sequence[int]) -> list[Any]:
        return self._scored(self._peer.batch([self._inputs[i] for i in indices]))

    async def answer_all(self, indices: Sequence[int]) -> list[Any]:
        """As the form does with many."""
        return self._scored(self._peer.many([self._inputs[i] for i in indices]))

    def _scored(self, logits: Logits) -> list[Any]:
        return [
            [{"label": label, "score": float(score)} for label, score in zip(self._labels, row, strict=True)]
            for row in logits
        ]


def create(spec: Spec) -> Target:
    """What answers, loaded.

    Raises:
        Whatever the engine raises where it is missing or cannot load.
    """
    try:
        if spec.is_url:
            from distilrt.bench.server import Server

            return Server(spec)
        return PeerTarget(spec) if spec.form else DistilrtTarget(spec)
    except ModuleNotFoundError as error:
        extra = "bench-peers" if spec.form else "bench"
        raise ModuleNotFoundError(f"{error}; pip install 'distilrt[{extra}]'") from error
