"""`distilrt serve` as a process of its own."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def serving(models: Mapping[str, Path | str], *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, which serves these folders by their names, and its `host:port`, once it is ready."""
    words = [word for name, folder in models.items() for word in ("--model", f"{name}={folder}")]
    command = [sys.executable, "-m", "distilrt", "serve", "--port", "0", *words, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            address = process.stderr.readline().rpartition("//")[2].strip()
            while ask(address, "/readyz")[0] != 200:
                assert process.poll() is None
                time.sleep(0.02)
            yield process, address
        finally:
            process.terminate()
            process.wait()


def ask(
    address: str, path: str, body: bytes | None = None, *, timeout: float = 120.0, source: str = "127.0.0.1"
) -> tuple[int, bytes]:
    """Status and body of a POST, or without a body of a GET; status 0 where the connection broke.

    Each `source` in 127.0.0.0/8 is a client of its own to the server.
    """
    connection = http.client.HTTPConnection(address, timeout=timeout, source_address=(source, 0))
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        return response.status, response.read()
    return 0, b""


def resident_mb(process: subprocess.Popen[str]) -> float:
    """Memory that the process has now."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
