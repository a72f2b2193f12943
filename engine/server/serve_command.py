"""`distilrt serve`: from flags to engines and their server. The server itself loads when the command runs."""

from __future__ import annotations

import faulthandler
import gc
import inspect
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from distilrt.runtime.engine import Engine
from distilrt.server.settings import ModelSettings, Settings, options

_JOIN_SECONDS = 1.0  # for threads to end once nobody waits for them
_SWITCH_SECONDS = 0.0005  # for which a thread may keep the interpreter; the start of a batch must not wait for 5 ms


def serve(**given: Any) -> None:
    """Serve models over HTTP until SIGTERM or SIGINT; then finish the requests that were taken, and exit with 0.

    Options that are not given come from the DISTILRT_… variables (docs/environment.md).
    """
    settings = Settings.from_env(**{name: given[name] for name in options(Settings)})
    served = ModelSettings.from_env(**{name: given[name] for name in options(ModelSettings)})
    if not served.models:
        raise typer.BadParameter("give at least one --model, or DISTILRT_MODELS")
    try:
        from distilrt.server import logs, tracing, uvicorn_server
        from distilrt.server.app import create_app
    except ModuleNotFoundError as error:
        raise ImportError(
            f"serving needs more packages, {error.name} among them: pip install 'distilrt[serve]'"
        ) from None

    logs.configure(settings.log_format)
    tracing.configure()
    sys.setswitchinterval(_SWITCH_SECONDS)
    with ExitStack() as stack:
        sockets = [stack.enter_context(each) for each in uvicorn_server.bind(settings.host, settings.port)]
        engines = _load(served, stack)
        application = create_app(engines, settings)
        gc.collect()
        gc.freeze()  # what is loaded stays: no collection walks through it again while requests wait
        uvicorn_server.run(application, settings, engines, sockets)
        # Nobody waits for an answer any more, and a thread in a long call must not hold the process.
        ended = [engine.close(drain=False, timeout=_JOIN_SECONDS) for engine in engines.values()]
        if not all(ended):
            os._exit(0)
        faulthandler.cancel_dump_traceback_later()


def _signature() -> inspect.Signature:
    """A flag for each option, None where it is not given."""
    flags = []
    for name, option in {**options(ModelSettings), **options(Settings)}.items():
        spelled = f"--{(option.flag or name).replace('_', '-')}"
        if option.kind is list:
            flag = typer.Option(spelled, "-m", metavar="[NAME=]MODEL", help=option.help)
        else:
            flag = typer.Option(help=option.help, show_default=option.default_text)
        hint: Any = list[str] if option.kind is list else option.kind
        annotation = Annotated[hint | None, flag]
        flags.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    return inspect.Signature(flags)


serve.__signature__ = _signature()  # type: ignore[attr-defined]  # of which typer makes the flags


def _load(served: ModelSettings, stack: ExitStack) -> dict[str, Engine]:
    """The engines by name; the stack closes them."""
    engines: dict[str, Engine] = {}
    for text in served.models:
        name, source = _named(text)
        engine = Engine(
            source,
            name=name,
            backend=served.backend,
            dtype=served.dtype,
            num_threads=served.threads,
            max_batch_tokens=served.max_batch_tokens,
            max_queue_tokens=served.max_queue_tokens,
            max_delay=served.max_delay,
        )
        stack.callback(engine.close, drain=False, timeout=_JOIN_SECONDS)
        if engine.name in engines:
            raise typer.BadParameter(f"two models are called {engine.name!r}; give one another name: NAME=MODEL")
        engines[engine.name] = engine
    return engines


def _named(text: str) -> tuple[str | None, str]:
    """Name and source of `NAME=MODEL` or `MODEL`; a folder may have a = in its name."""
    name, equals, source = text.partition("=")
    if not equals or Path(text).expanduser().exists():
        return None, text
    return name, source
