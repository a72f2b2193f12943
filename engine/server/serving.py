"""The state of one server: the engines by name, its settings, and what all requests share."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from distilrt.errors import NotReady
from distilrt.runtime.engine import Engine
from distilrt.server import statuses
from distilrt.server.memory import Budget
from distilrt.server.operation import Operation
from distilrt.server.settings import Settings

_BODIES = 8  # of the largest size, that are on their way at once

_log = logging.getLogger("distilrt.server")

Observer = Callable[[Any, str, int], None]  # is told of each response: its `Call`, path and status


class Serving:
    """The engines of one server, and its state.

    Attributes:
        engines: by name, at least one; the first answers where a request names none.
        settings: as given.
        warm: whether the engines are warmed up; requests before that get 503.
        draining: whether the process is about to end; only `/readyz` and `/health` say so, requests are still taken.
        trouble: why warming up failed, if it did.
        responses: how many, by route and status.
        budget: the memory that large bodies may take together.
        files: the files that the models are mapped from.
        operations: what it can be asked.
        observers: are told of each response once it is sent.
        started: when it was made, in seconds since 1970.
    """

    def __init__(self, engines: Mapping[str, Engine], settings: Settings, operations: Sequence[Operation] = ()) -> None:
        if not engines:
            raise ValueError("there must be at least one engine to serve")
        self.engines, self.settings, self.operations = dict(engines), settings, operations
        self.started = int(time.time())
        self.warm = self.draining = False
        self.trouble: str | None = None
        self.responses: Counter[tuple[str, int]] = Counter()
        self.files = ServedFiles(self.engines.values())
        self.budget = Budget(_BODIES * settings.max_body_bytes)
        self.observers: list[Observer] = []

    def warm_up(self) -> None:
        """Warm the engines up, or note why that failed."""
        try:
            for engine in self.engines.values():
                engine.warm_up()
        except Exception as error:
            self.trouble = str(error)
            if not isinstance(error, NotReady):  # which it is where the server ends meanwhile
                _log.error("warming up failed", exc_info=error)
        else:
            self.warm = True

    def engine(self, name: str | None = None) -> Engine:
        """The engine of that name; None: the first.

        Raises:
            UnknownModel: there is none.
        """
        engine = next(iter(self.engines.values())) if name is None else self.engines.get(name)
        if engine is None:
            raise statuses.UnknownModel(f"there is no model {name!r} here; there is {', '.join(self.engines)}")
        return engine

    def having(self, task: str, fits: Callable[[Engine], bool] = lambda engine: True) -> Engine:
        """The first engine that serves a task, for routes that are for one task and name no model.

        Raises:
            NoSuchTask: there is none.
        """
        for engine in self.engines.values():
            if task in engine.tasks and fits(engine):
                return engine
        there = ", ".join(f"{name} ({', '.join(engine.tasks)})" for name, engine in self.engines.items())
        raise statuses.NoSuchTask(f"no model here serves {task}; there is {there}")


class ServedFiles:
    """The weights' files of engines as they are now; arrays from memory have none.

    A mapped file that is overwritten or truncated in place changes answers, or ends the process by SIGBUS, whatever the
    kind of mapping. A file that was replaced by renaming is another one, and the mapped one stays as it is.
    """

    def __init__(self, engines: Iterable[Engine]) -> None:
        self._seen: dict[str, os.stat_result] = {}
        for engine in engines:
            with suppress(OSError):
                self._seen[engine.model.weights.source] = os.stat(engine.model.weights.source)

    def changed(self) -> str | None:
        """A file that was written to since then; None: there is none."""
        for path, then in self._seen.items():
            with suppress(OSError):
                now = os.stat(path)
                same = (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)
                if same and (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
                    return path
        return None
