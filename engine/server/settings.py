"""What an operator can set about the server, and what is allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_type_hints

from distilrt import env


@dataclass(frozen=True)
class Settings:
    """How to serve; limits are of one request.

    Attributes:
        host, port: where to listen; port 0: any free one.
        api_key: what a request must bring as `Authorization: Bearer …`; None: nothing. Health and metrics stay open.
        max_body_bytes: of a body; a larger one gets 413.
        max_inputs: texts in a body; more get 413.
        max_tokens: of all texts in a body; more get 413.
        truncate: cut texts that the model can't read whole, where a request doesn't say; else they get 422.
        deadline: seconds that a request may wait before it is given up with 504; None: for ever. A request may ask for
            less in its header `x-deadline-ms`.
        body_timeout: seconds that a client may take to send a request's headers, and then its body, and for which it
            may stop reading an answer.
        keep_alive: seconds for which a connection stays open without a request.
        max_connections: at once; more get 503.
        drain_delay: seconds between SIGTERM, when `/readyz` turns to 503, and the end of taking connections.
        drain_timeout: seconds after that for requests on their way.
        log_format: "text" for warnings and errors, or "json" for these and each request as lines of JSON.

    Raises:
        ValueError: a value that is not allowed.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    max_body_bytes: int = 2_000_000
    max_inputs: int = 2048
    max_tokens: int = 262144
    truncate: bool = False
    deadline: float | None = None
    body_timeout: float = 30.0
    keep_alive: float = 75.0
    max_connections: int = 1000
    drain_delay: float = 1.0
    drain_timeout: float = 30.0
    log_format: str = "text"

    def __post_init__(self) -> None:
        self._check_integer("port", 0, 65535)
        self._check_integer("max_body_bytes", 1)
        self._check_integer("max_inputs", 1)
        self._check_integer("max_tokens", 1)
        self._check_integer("max_connections", 1)
        for name in ("body_timeout", "keep_alive", "drain_delay", "drain_timeout", "deadline"):
            value = getattr(self, name)
            if value is None and name == "deadline":
                continue
            may_be_0 = name == "drain_delay"
            if type(value) not in (int, float) or not 0 <= value < math.inf or not (value or may_be_0):
                least = "at least 0" if may_be_0 else "more than 0"
                raise ValueError(f"{name} must be a number of seconds, {least}, found {value!r}")
        if self.log_format not in ("text", "json"):
            raise ValueError(f"log_format must be 'text' or 'json', found {self.log_format!r}")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise ValueError("api_key must be printable ASCII characters, at least one; leave --api-key and "
                             "DISTILRT_API_KEY out for none")  # fmt: skip

    @classmethod
    def from_env(cls, **given: object) -> Settings:
        """What is given, and for what isn't, or is None, the `DISTILRT_…` variables and the defaults.

        Raises:
            ValueError: a variable or value that is not allowed.
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        # No other option would let everybody in where its variable is empty.
        variables = env.options(get_type_hints(cls), may_be_empty=["api_key"])
        return cls(**{**variables, **chosen})

    def _check_integer(self, name: str, least: int, most: int | None = None) -> None:
        value = getattr(self, name)
        if type(value) is not int or value < least or (most is not None and value > most):
            allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise ValueError(f"{name} must be an integer {allowed}, found {value!r}")
