"""A tiny classifier to measure, and a server that answers at once or as told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
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
    """An HTTP server of a few lines, on a thread; `reply` may be changed meanwhile."""

    def __init__(self) -> None:
        self.reply: Reply = lambda path, body: (200, [[{"label": "LABEL_0", "score": 1.0}]])
        self.requests: list[tuple[str, Any]] = []
        self.heads: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lengths = [line for line in head.lower().split("\r\n") if line.startswith("content-length")]
                body = await reader.readexactly(int(lengths[0].partition(":")[2])) if lengths else b"null"
                path = head.split()[1]
                self.heads.append(head)
                self.requests.append((path, json.loads(body)))
                status, answer = self.reply(path, json.loads(body))
                if status == 0:
                    writer.close()
                    return
                data = json.dumps(answer).encode()
                head_of = b"HTTP/1.1 %d X\r\nserver: tiny\r\ncontent-length: %d\r\n\r\n"
                writer.write(head_of % (status, len(data)) + data)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def close(self) -> None:
        """Stop."""

        async def end() -> None:
            self._server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server."""
    made = Server()
    yield made
    made.close()
