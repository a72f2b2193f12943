"""What an operator can set: a field an option, from which its flag, its variable, its check and its help follow.

`distilrt serve` has a flag for each field of `ModelSettings` and `Settings`. Where the flag is not given, the variable
`DISTILRT_…` of that name counts, and then the default. docs/environment.md has the list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from distilrt import env
from distilrt.errors import InvalidParameter

_Table = TypeVar("_Table", bound="_Options")


@dataclass(frozen=True)
class Option:
    """What there is to say of one option.

    Attributes:
        default: its value where nobody sets it.
        help: sentences for the flag's help and the documentation.
        kind: the type of its values; `list` stands for words.
        least, most: the bounds of a number.
        positive: whether a number of seconds must be above 0.
        choices: the words that are allowed; none: any.
        shown: the default in words, where the value does not say it.
        flag: the flag's name, where it is not the field's.
        variable: whether an environment variable is read for it here; the engine reads some of its own.
    """

    default: Any
    help: str
    kind: type
    least: int = 0
    most: float = math.inf
    positive: bool = False
    choices: tuple[str, ...] = ()
    shown: str = ""
    flag: str = ""
    variable: bool = True

    @property
    def default_text(self) -> str:
        """The default as help and documentation show it."""
        return self.shown or (f"{self.default:g}" if self.kind is float else str(self.default))

    def check(self, name: str, value: Any) -> None:
        """Raise InvalidParameter for a value that is not allowed."""
        if value is None and self.default is None:
            return
        if self.choices and value not in self.choices:
            raise InvalidParameter(f"{name} must be {' or '.join(map(repr, self.choices))}, found {value!r}")
        if self.kind is int and not (type(value) is int and self.least <= value <= self.most):
            allowed = f"of at least {self.least}" if self.most == math.inf else f"from {self.least} to {self.most}"
            raise InvalidParameter(f"{name} must be an integer {allowed}, found {value!r}")
        if self.kind is float:
            number = type(value) in (int, float) and 0 <= value < math.inf
            if not number or (self.positive and not value):
                least = "more than 0" if self.positive else "at least 0"
                raise InvalidParameter(f"{name} must be a number of seconds, {least}, found {value!r}")


def _option(default: Any, help: str, kind: type | None = None, **more: Any) -> Any:
    return field(default=default, metadata={"option": Option(default, help, kind or type(default), **more)})


class _Options:
    """Base of the tables of options."""

    @classmethod
    def from_env(cls: type[_Table], **given: object) -> _Table:
        """What is given, and for what isn't, or is None, the `DISTILRT_…` variables and the defaults.

        Raises:
            InvalidParameter: a variable or value that is not allowed.
        """
        # An empty variable counts as not set, but for the key, where that would let everybody in.
        kinds = {name: option.kind for name, option in options(cls).items() if option.variable}
        found = env.options(kinds, may_be_empty=["api_key"])
        return cls(**{**found, **{name: value for name, value in given.items() if value is not None}})


def options(table: type[_Options]) -> Mapping[str, Option]:
    """The options of a table by name, in order."""
    return {each.name: each.metadata["option"] for each in fields(table)}  # type: ignore[arg-type]  # a dataclass


@dataclass(frozen=True)
class ModelSettings(_Options):
    """Which models are served, and how they are computed. The engine checks the values."""

    models: Sequence[str] = _option(
        (),
        "Hub id or folder of a model, or NAME= and one of these. The flag may be repeated; in the variable models are "
        "separated by spaces.",
        kind=list,
        flag="model",
        shown="none",
    )
    backend: str = _option("auto", "Backend that computes: auto, reference, cpu or cuda.", variable=False)
    dtype: str = _option("auto", "Number type of the computation: auto, or one that the backend has.")
    threads: int | None = _option(
        None, "CPU threads of each model.", kind=int, shown="as many as the machine allows", variable=False
    )
    max_batch_tokens: int | None = _option(
        None, "Most tokens that are computed together.", kind=int, shown="512, on a GPU 16384"
    )
    max_queue_tokens: int | None = _option(
        None,
        "Tokens that may wait before a request that is let in. A client with less than its share of them is let in all "
        "the same.",
        kind=int,
        shown="what is computed in 10 s, from 32768 to 1048576",
    )
    max_delay: float = _option(0.0, "Seconds that a batch which is not full may wait for more requests.")


@dataclass(frozen=True)
class Settings(_Options):
    """How to serve. Limits are of one request; `options(Settings)` says what each field means and what it may be.

    Raises:
        InvalidParameter: a value that is not allowed.
    """

    host: str = _option("127.0.0.1", "Address to listen on.")
    port: int = _option(8080, "Port to listen on; 0 takes any free one.", most=65535)
    api_key: str | None = _option(
        None,
        "Key that a request must bring in the header Authorization: Bearer KEY. Probes and metrics need none. Other "
        "users of the machine can read a flag, so prefer the variable.",
        kind=str,
        shown="no key",
    )
    max_body_bytes: int = _option(2_000_000, "Most bytes of a body; a larger one gets 413.", least=1)
    max_inputs: int = _option(2048, "Most texts of a request; more get 413.", least=1)
    max_tokens: int = _option(262144, "Most tokens of all texts of a request; more get 413.", least=1)
    truncate: bool = _option(
        False,
        "Whether texts that the model cannot read whole are cut where a request does not say; otherwise they get 422.",
        shown="no",
    )
    deadline: float | None = _option(
        None,
        "Seconds that a request may wait before it gets 504. A request may ask for less in its header x-deadline-ms.",
        kind=float,
        positive=True,
        shown="no limit",
    )
    body_timeout: float = _option(
        30.0,
        "Seconds that a client may take to send a request's headers, and then its body, and for which it may stop "
        "reading an answer.",
        positive=True,
    )
    keep_alive: float = _option(75.0, "Seconds for which a connection stays open without a request.", positive=True)
    max_connections: int = _option(1000, "Most connections at once; more get 503.", least=1)
    drain_delay: float = _option(
        1.0, "Seconds between SIGTERM, when /readyz turns to 503, and the end of taking connections."
    )
    drain_timeout: float = _option(30.0, "Seconds after that for requests that were taken before.", positive=True)
    log_format: str = _option(
        "text",
        "Form of the log: text for warnings and errors, or json for these and each request as lines of JSON.",
        choices=("text", "json"),
    )

    def __post_init__(self) -> None:
        for name, option in options(Settings).items():
            option.check(name, getattr(self, name))
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise InvalidParameter(
                "api_key must be printable ASCII characters, at least one; leave --api-key and DISTILRT_API_KEY out "
                "for none"
            )
