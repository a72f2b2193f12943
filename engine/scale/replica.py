"""What a replica of `distilrt.scale.ray_serve` is: models, each with the server's application, and the way to them."""

from __future__ import annotations

import asyncio
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from distilrt.errors import Overloaded
from distilrt.runtime.engine import Engine
from distilrt.server import statuses
from distilrt.server.app import create_app
from distilrt.server.call import Call
from distilrt.server.settings import Settings

# Ray's header; it reads - for _, which some proxies drop.
_HEADERS = ("serve_multiplexed_model_id", "serve-multiplexed-model-id")
_ROUTE = "/models/"


class Resident:
    """A loaded model and an application that serves only it, warmed up.

    Attributes:
        engine: the model's.
        serving: the application's state.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._answering, self._changed = 0, threading.Condition()
        self.engine = engine
        self._app = create_app({engine.name: engine}, settings)
        self.serving = self._app.state.serving
        engine.warm_up()
        self.serving.warm = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        with self._changed:
            self._answering += 1
        try:
            await self._app(scope, receive, send)
        finally:
            with self._changed:
                self._answering -= 1
                self._changed.notify_all()

    async def check(self) -> None:
        """See whether the engine works; after a batch that failed a new one tells.

        Raises:
            BackendError: it does not.
        """
        if self.engine.open and not self.engine.ready:
            with suppress(Overloaded):  # there is enough in the queue to tell, by the next time
                await asyncio.wrap_future(self.engine.probe())

    def close(self) -> None:
        """Wait for the requests that came here, and close the engine. Not for the event loop's thread while there are
        such. Closing twice is harmless."""
        with self._changed:
            self._changed.wait_for(lambda: not self._answering)
        self.engine.close()

    __del__ = close  # what Ray calls, in a thread, when another model takes the place


class Replica(ABC):
    """Models behind one ASGI application: the first always loaded, the others loaded by `resident` when asked for.

    Ray calls `reconfigure` before the first request and whenever the settings change, `check_health` every few seconds,
    and asks what `__serve_build_asgi_app__` gives.

    Args:
        models: sources by name; the name of the first may be "", which leaves it to the engine.
        options: of each `Engine`.
    """

    def __init__(self, models: Mapping[str, str], options: Mapping[str, Any]) -> None:
        self._models, self._options = dict(models), dict(options)
        self._settings = Settings.from_env()
        self._loaded: weakref.WeakSet[Resident] = weakref.WeakSet()
        self._first = self.load(next(iter(self._models)))

    def load(self, name: str) -> Resident:
        """One of the models, loaded and warmed up.

        Raises:
            OSError, CheckpointError, BackendError: as `Engine`.
        """
        found = Resident(Engine(self._models[name], name=name or None, **self._options), self._settings)
        self._loaded.add(found)
        return found

    @abstractmethod
    async def resident(self, name: str) -> Resident:
        """One of the models beside the first, loaded now or before; the subclass says how many stay."""

    def reconfigure(self, settings: Mapping[str, Any]) -> None:
        """Serve under these settings from the next request on.

        Raises:
            ValueError, TypeError: as `Settings.from_env`.
        """
        self._settings = Settings.from_env(**settings)

    async def check_health(self) -> None:
        """Raises BackendError where an engine fails and goes on failing: Ray then puts another replica here."""
        for loaded in list(self._loaded):
            await loaded.check()

    async def close(self) -> None:
        """End the models, after the requests that they have."""
        for loaded in list(self._loaded):
            await asyncio.to_thread(loaded.close)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:  # uvicorn takes no bound method
            await self._answer(scope, receive, send)

        return application

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
            return
        try:
            found = await self._chosen(scope, receive)
        except Exception as error:
            await statuses.response(error)(scope, receive, send)
            return
        found.serving.settings = self._settings
        await found(scope, receive, send)

    async def _chosen(self, scope: Scope, receive: Receive) -> Resident:
        """The model that a request names, or the first; UnknownModel or Unauthorized where it is not to have it."""
        name = _named(scope)
        if name in (None, self._first.engine.name):
            return self._first
        self._first.serving.settings = self._settings
        Call(self._first.serving, scope, receive).authorize()  # before anything loads
        if name not in self._models:
            names = [self._first.engine.name, *list(self._models)[1:]]
            raise statuses.UnknownModel(f"there is no model {name!r} here; there is {', '.join(names)}")
        return await self.resident(name)


def _named(scope: Scope) -> str | None:
    """The model in a request's path, or else in its headers."""
    path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
    if path.startswith(_ROUTE):
        return path.removeprefix(_ROUTE)
    headers = Headers(scope=scope)
    return next((headers[name] for name in _HEADERS if headers.get(name)), None)
