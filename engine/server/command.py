"""`distilrt serve`: options, the process's signals, and its end. The server itself loads when the command runs."""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distilrt import env
from distilrt.faster_dtypes import advice
from distilrt.runtime.engine import Engine
from distilrt.server.settings import Settings
from distilrt.server.sockets import bound

if TYPE_CHECKING:
    from socket import socket
    from types import FrameType

    from starlette.applications import Starlette

MODEL_OPTIONS = {
    "models": list, "dtype": str, "max_batch_tokens": int, "max_queue_tokens": int, "max_delay": float,
}  # fmt: skip
_STUCK = 1.0  # seconds for threads to end once nobody waits for them
_SWITCH_INTERVAL = (
    0.0005  # seconds for which a thread may keep the interpreter; a batch's start should not wait for 5 ms
)


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="[NAME=]MODEL", help="Folder or hub id; may be repeated."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0: any free one.", show_default="8080")] = None,
    backend: Annotated[str, typer.Option(help="auto, reference, cpu or cuda.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="auto, or one that the backend has.", show_default="auto")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; else what the machine allows.")] = None,
    api_key: Annotated[str | None, typer.Option(help="Key that requests must bring; better in the variable.")] = None,
    truncate: Annotated[bool | None, typer.Option(help="Cut texts that are too long, unless told otherwise.")] = None,
    max_inputs: Annotated[int | None, typer.Option(help="Texts of a request.", show_default="2048")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens of a request.", show_default="262144")] = None,
    max_body_bytes: Annotated[int | None, typer.Option(help="Bytes of a body.", show_default="2000000")] = None,
    max_batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens computed together.", show_default="512, on a GPU 16384")
    ] = None,
    max_queue_tokens: Annotated[
        int | None, typer.Option(help="Tokens that may wait.", show_default="what is computed in 10 s")
    ] = None,
    max_delay: Annotated[
        float | None, typer.Option(help="Seconds that a batch may wait for more.", show_default="0")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(help="Seconds that a request may wait.", show_default="for ever")
    ] = None,
    body_timeout: Annotated[float | None, typer.Option(help="Seconds to send a body.", show_default="30")] = None,
    keep_alive: Annotated[
        float | None, typer.Option(help="Seconds that a connection stays open without a request.", show_default="75")
    ] = None,
    max_connections: Annotated[int | None, typer.Option(help="Connections at once.", show_default="1000")] = None,
    drain_delay: Annotated[
        float | None, typer.Option(help="Seconds from SIGTERM to the last connection taken.", show_default="1")
    ] = None,
    drain_timeout: Annotated[
        float | None, typer.Option(help="Seconds from there for what is on its way.", show_default="30")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(help="text, or json with a line for each request.", show_default="text")
    ] = None,
) -> None:
    """Serve models over HTTP until SIGTERM or SIGINT; then finish what was taken, and exit with 0.

    Options that aren't given come from the DISTILRT_… variables (docs/environment.md).
    """
    settings = Settings.from_env(
        host=host, port=port, api_key=api_key, truncate=truncate, max_inputs=max_inputs, max_tokens=max_tokens,
        max_body_bytes=max_body_bytes, deadline=deadline, body_timeout=body_timeout, keep_alive=keep_alive,
        max_connections=max_connections, drain_delay=drain_delay, drain_timeout=drain_timeout, log_format=log_format,
    )  # fmt: skip
    served = env.options(MODEL_OPTIONS)
    given = {"dtype": dtype, "max_batch_tokens": max_batch_tokens, "max_queue_tokens": max_queue_tokens,
             "max_delay": max_delay}  # fmt: skip
    options = served | {name: value for name, value in given.items() if value is not None}
    models = model or options.get("models")
    options.pop("models", None)
    if not models:
        raise typer.BadParameter("give at least one --model, or DISTILRT_MODELS")
    try:
        from distilrt.server import logs, tracing
        from distilrt.server.app import create_app
    except ModuleNotFoundError as error:
        raise ImportError(
            f"serving needs more packages, {error.name} among them: pip install 'distilrt[serve]'"
        ) from None

    logs.configure(settings.log_format)
    tracing.configure()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    with ExitStack() as stack:
        sockets = [stack.enter_context(found) for found in bound(settings.host, settings.port)]
        engines: dict[str, Engine] = {}
        for text in models:
            name, source = _named(text)
            engine = Engine(source, name=name, backend=backend, num_threads=threads, **options)
            stack.callback(engine.close, drain=False, timeout=_STUCK)
            if engine.name in engines:
                raise typer.BadParameter(f"two models are called {engine.name!r}; give one another name: NAME=MODEL")
            engines[engine.name] = engine
        application = create_app(engines, settings)
        gc.collect()
        gc.freeze()  # what is loaded stays: no collection walks through it again while requests wait
        _run(application, settings, engines, sockets)
        # Nobody waits for an answer any more, and a thread in a long call must not hold the process.
        ended = [engine.close(drain=False, timeout=_STUCK) for engine in engines.values()]
        if not all(ended):
            os._exit(0)
        faulthandler.cancel_dump_traceback_later()


def _run(app: Starlette, settings: Settings, engines: dict[str, Engine], sockets: list[socket]) -> None:
    """Serve until a signal."""
    import uvicorn

    from distilrt.server import connection

    person = sys.stderr.isatty()  # programs get the one line with the address

    def say(text: str) -> None:
        print(f"distilrt: {text}", file=sys.stderr, flush=True)

    class Server(uvicorn.Server):
        """Uvicorn that first says it is not ready, then keeps listening for a while, then ends as it does."""

        told = False

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """The first signal drains; a second one doesn't wait for those that still come."""
            if app.state.serving.draining:
                self.should_exit = True
                return
            app.state.serving.draining = True
            # Whatever hangs then, with the interpreter's lock or without: say where, and end.
            faulthandler.dump_traceback_later(settings.drain_delay + settings.drain_timeout + 3 * _STUCK, exit=True)
            self.draining_from = time.monotonic()

        async def on_tick(self, counter: int) -> bool:
            if app.state.serving.draining and not self.should_exit:
                if person and not self.told:
                    self.told = True
                    say("ending when all that comes within "
                        f"{settings.drain_delay:g} s is answered; Ctrl-C again to take no more")  # fmt: skip
                self.should_exit = time.monotonic() >= self.draining_from + settings.drain_delay
            return await super().on_tick(counter)

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            for found in sockets:
                address, port = found.getsockname()[:2]
                host = f"[{address}]" if ":" in address else address
                say(f"serving {', '.join(engines)} on http://{host}:{port}")
            for engine in engines.values() if person else []:
                say(_facts(engine))
                if words := advice(engine.describe()):
                    say(f"{engine.name}: {words}")

    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False,
        ws="none", http=connection.protocol(settings, app.state.serving.responses),
        timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]  # it is only added to a time
        timeout_graceful_shutdown=int(settings.drain_timeout) or 1,
    )  # fmt: skip
    Server(config).run(sockets)


def _facts(engine: Engine) -> str:
    """What a model is and computes in, for a person."""
    facts = engine.describe()
    number = facts.get("num_threads")
    threads = f", {number} thread{'s' * (number > 1)}" if number else ""
    return f"{engine.name}: {', '.join(engine.tasks)}; {facts['backend']}, {facts['dtype']}{threads}"


def _named(text: str) -> tuple[str | None, str]:
    """Name and source of `NAME=MODEL` or `MODEL`; a folder may have a = in its name."""
    name, equals, source = text.partition("=")
    if not equals or Path(text).expanduser().exists():
        return None, text
    return name, source
