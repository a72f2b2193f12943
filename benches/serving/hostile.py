"""What strangers send: small requests' p99 beside each hostile body, memory under many large ones, and fuzzing.

    python -m benches.serving.hostile --model FOLDER            everything; rows go to benches/results/hostile.csv

Needs a quiet machine. The exit code is 1 where a promise was broken: a small request's p99 at most 3 times that alone,
1 GB under 200 clients of 2 MB, and of any request no crash, no hang and no answer of 5xx but 503 and 504.
"""

from __future__ import annotations

import csv
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from benches.serving import fuzz

RESULTS = Path(__file__).parents[1] / "results" / "hostile.csv"
FIELDS = ("date", "what", "requests", "statuses", "p50_ms", "p99_ms", "alone_p99_ms", "peak_mb", "ok")
SLOWER, MOST_MB = 3.0, 1000.0
SMALL = b'{"inputs":"The cat sat on the mat."}'
_MEANT = {503, 504}  # answers of 5xx that say what the client can do

_INFER = "/v2/models/model/infer"

HOSTILE: dict[str, tuple[str, bytes]] = {
    "text of 2 MB": ("/embed", b'{"inputs":"%b"}' % (b"the cat " * 248_000)),
    "punctuation": ("/embed", b'{"inputs":"%b"}' % (b"!" * 1_900_000)),
    "combining marks": ("/embed", json.dumps({"inputs": "a" + "\u0301" * 900_000}, ensure_ascii=False).encode()),
    "2048 texts": ("/embed", json.dumps({"inputs": ["the cat " * 121] * 2048, "truncate": True}).encode()),
    "ids": ("/embed", b'{"inputs":[' + b",".join([b"5"] * 990_000) + b"]}"),
    "exponents": ("/", b'{"inputs":[' + b",".join([b"1e300"] * 330_000) + b"]}"),
    "nested data": (_INFER, b'{"inputs":[{"name":"input_ids","shape":[1,1],"datatype":"INT64","data":['
                    + b",".join([b"[[[[[[[5]]]]]]]"] * 120_000) + b"]}]}"),
    "dimensions": (_INFER, b'{"inputs":[{"name":"input_ids","datatype":"INT64","data":[1],"shape":['
                   + b",".join([b"2147483647"] * 180_000) + b"]}]}"),
    "parameters": ("/", b'{"inputs":"a","parameters":{' + b",".join(b'"%d":1' % i for i in range(180_000)) + b"}}"),
    "prompt times inputs": ("/", b'{"inputs":["a"%b],"parameters":{"prompt":"%b"}}' % (b',"a"' * 99, b"a " * 500_000)),
    "vectors of 30,000 tokens": ("/embed_all", json.dumps({"inputs": ["cat " * 500] * 60}).encode()),
    "tokenize": ("/tokenize", json.dumps({"inputs": "the cat " * 25_000}).encode()),
}  # fmt: skip


class Server:
    """`distilrt serve` of one model called "model"."""

    def __init__(self, model: str) -> None:
        command = [
            sys.executable,
            "-m",
            "distilrt",
            "serve",
            "--port",
            "0",
            "-m",
            f"model={model}",
            "--body-timeout",
            "5",
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.port = int(self.process.stderr.readline().rpartition(":")[2])
        while self.ask("/readyz", None)[0] != 200:
            time.sleep(0.05)

    def ask(self, path: str, body: bytes | None, timeout: float = 120.0) -> tuple[int, bytes]:
        """Status and body; 0 where the connection broke."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET" if body is None else "POST", path, body)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def memory_mb(self) -> float:
        """Resident, now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1e3


def latencies(server: Server, stop: threading.Event) -> list[float]:
    """Seconds of small requests, one after another, until told to stop."""
    found: list[float] = []
    while not stop.wait(0.01):
        start = time.perf_counter()
        server.ask("/embed", SMALL)
        found.append(time.perf_counter() - start)
    return sorted(found) or [float("inf")]


def beside(server: Server, hostile: tuple[str, bytes] | None, seconds: float) -> dict[str, Any]:
    """Small requests' times while another client sends a body again and again."""
    stop, statuses, measured = threading.Event(), Counter[int](), []
    thread = threading.Thread(target=lambda: measured.extend(latencies(server, stop)))
    thread.start()
    end = time.perf_counter() + seconds
    peak = 0.0
    while time.perf_counter() < end:
        if hostile is None:
            time.sleep(0.1)
        else:
            statuses[server.ask(*hostile)[0]] += 1
        peak = max(peak, server.memory_mb())
    stop.set()
    thread.join()
    p50, p99 = (1e3 * measured[min(len(measured) - 1, int(share * len(measured)))] for share in (0.5, 0.99))
    return {"requests": sum(statuses.values()), "statuses": dict(statuses), "p50_ms": round(p50, 2),
            "p99_ms": round(p99, 2), "peak_mb": round(peak)}  # fmt: skip


def many(server: Server, clients: int) -> dict[str, Any]:
    """Memory while so many clients send 2 MB each."""
    statuses: Counter[int] = Counter()
    threads = [threading.Thread(target=lambda: statuses.update([server.ask(*HOSTILE["text of 2 MB"], 600)[0]]))
               for _ in range(clients)]  # fmt: skip
    for thread in threads:
        thread.start()
    peak = 0.0
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, server.memory_mb())
        time.sleep(0.02)
    return {"requests": clients, "statuses": dict(statuses), "peak_mb": round(peak),
            "ok": peak <= MOST_MB and statuses.total() == clients}  # fmt: skip


def fuzz_json(server: Server, number: int) -> dict[str, Any]:
    """Mutated bodies."""
    statuses: Counter[int] = Counter(server.ask(*each)[0] for each in fuzz.bodies(1, number, "model"))
    return {"requests": number, "statuses": dict(statuses), "ok": _fine(server, statuses)}


def fuzz_raw(server: Server, number: int) -> dict[str, Any]:
    """Mutated streams; 0 is no answer."""
    statuses: Counter[int] = Counter(exchange(server.port, data) for data in fuzz.streams(1, number))
    return {"requests": number, "statuses": dict(statuses), "ok": _fine(server, statuses - Counter({0: number}))}


def exchange(port: int, data: bytes, patience: float = 0.15) -> int:
    """The first status that comes for a stream within so many seconds; 0: none."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection, suppress(OSError):
        connection.sendall(data)
        connection.settimeout(patience)
        found = re.match(rb"HTTP/1\.1 (\d+) ", connection.recv(65536))
        return int(found[1]) if found else 0
    return 0


def _fine(server: Server, statuses: Counter[int]) -> bool:
    bad = [status for status in statuses if status == 0 or (status >= 500 and status not in _MEANT)]
    return not bad and server.process.poll() is None and server.ask("/livez", None)[0] == 200


def main(
    model: Annotated[str, typer.Option(help="Folder of a sentence encoder.")],
    seconds: Annotated[float, typer.Option(help="For each hostile body.")] = 10.0,
    bodies: Annotated[int, typer.Option(help="Mutated bodies.")] = 52_000,
    streams: Annotated[int, typer.Option(help="Mutated streams.")] = 6_000,
    clients: Annotated[int, typer.Option(help="Of 2 MB at once.")] = 200,
) -> None:
    """Measure, show a table and append rows."""
    server, made = Server(model), []

    def note(what: str, found: dict[str, Any]) -> None:
        made.append({"date": date.today().isoformat(), "what": what, **found})
        print(what.ljust(26), *(f"{name}={value}" for name, value in found.items()), flush=True)

    try:
        alone = beside(server, None, seconds)
        note("alone", alone | {"ok": True})
        for what, hostile in HOSTILE.items():
            found = beside(server, hostile, seconds)
            near = {"alone_p99_ms": alone["p99_ms"], "ok": found["p99_ms"] <= SLOWER * alone["p99_ms"]}
            note(what, found | near)
        note(f"{clients} clients of 2 MB", many(server, clients))
        note("mutated bodies", fuzz_json(server, bodies))
        note("mutated streams", fuzz_raw(server, streams))
    finally:
        server.process.terminate()
        server.process.wait()
        new = not RESULTS.exists()
        with RESULTS.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(made)
    if not all(each["ok"] for each in made):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
