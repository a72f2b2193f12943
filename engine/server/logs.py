"""Logs as lines of JSON: warnings and errors, and a line for each request."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from distilrt.server.call import Call

_requests = logging.getLogger("distilrt.server.requests")


class JsonLines(logging.Formatter):
    """A record as a line: `time` in UTC, `level`, `logger`, `message`, its `error` if any, and the fields in `json`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields | getattr(record, "json", {}))


def configure(form: str) -> None:
    """Log to the standard error stream from warnings on, as "text", or as "json" with a line for each request."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if form == "json":
        _requests.setLevel(logging.INFO)


def observe(call: Call, route: str, status: int) -> None:
    """Log a request that was answered; seconds are those of the timing headers."""
    fields: dict[str, Any] = {"method": call.method, "route": route, "status": status, "seconds": round(call.age(), 6)}
    if call.steps:
        fields["tokens"] = call.tokens
        for name in ("tokenize", "queue", "compute"):
            fields[f"{name}_seconds"] = round(call.total(name), 6)
    _requests.info("request", extra={"json": fields})


def wanted() -> bool:
    """Whether requests are logged."""
    return _requests.isEnabledFor(logging.INFO)
