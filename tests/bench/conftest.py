"""A tiny classifier to measure, and a server that answers at once or as told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from distilrt.bench import findings, samples

Reply = Callable[[str, Any], tuple[int, Any]]  # path and body to status and body


@pytest.fixture(scope="session")
def classifier(folder_of: Callable[..., Path]) -> str:
    """Folder of a tiny text classifier with a real vocabulary."""
    return str(folder_of("DistilBertForSequenceClassification"))


@pytest.fixture(scope="session")
def queries(classifier: str) -> samples.Samples:
    """Short texts for it."""
    return samples.make("queries", classifier)


def read(file: Path) -> findings.Findings:
    """What `distilrt bench --json` wrote."""
    head, *rows = map(json.loads, file.read_text().splitlines())
    assert head.pop("format") == findings.VERSION
    return findings.Findings(**head, rows=rows)


class Server:
    """An HTTP server on a thread; `reply` may be changed meanwhile, and its status 0 hangs up."""

    def __init__(self) -> None:
        self.reply: Reply = lambda path, body: (200, [[{"label": "LABEL_0", "score": 1.0}]])
        self.requests: list[tuple[str, Any]] = []
        self.heads: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version, server_version, sys_version = "HTTP/1.1", "tiny", ""
            wbufsize, disable_nagle_algorithm = -1, True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
                server.heads.append(str(self.headers))
                server.requests.append((self.path, body))
                status, answer = server.reply(self.path, body)
                if status == 0:
                    self.close_connection = True
                    return
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Location", "/elsewhere")  # a status 3xx is an answer like others
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server."""
    made = Server()
    yield made
    made.close()
