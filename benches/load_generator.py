"""What the load generator itself can do, against a server that answers at once, on the same cores:

    python -m benches.load_generator --rate 5000

The exit code is 1 where 1 % of the requests were more than a millisecond late, or one failed.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Annotated

import typer
from rich.console import Console

from benches.serving.compare import texts
from distilrt.bench import latencies, samples
from distilrt.bench.load import Load
from distilrt.bench.progress import Bar
from distilrt.bench.session import Session
from distilrt.bench.targets import Spec

BODY = b'[{"label":"LABEL_0","score":1.0}]'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Instant(asyncio.Protocol):
    """Answers every request alike, reading no more of it than where it ends."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._left = transport, b""

    def data_received(self, data: bytes) -> None:
        """One answer for each whole request."""
        self._left += data
        while (end := self._left.find(b"\r\n\r\n")) >= 0:
            _, _, length = self._left[:end].lower().partition(b"content-length: ")
            size = end + 4 + (int(length.split(b"\r\n")[0]) if length else 0)
            if len(self._left) < size:
                return
            self._left = self._left[size:]
            self._transport.write(ANSWER)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main(
    rate: float = 5000.0, seconds: float = 10.0, serve: Annotated[bool, typer.Option("--serve", hidden=True)] = False
) -> None:
    """Measure."""
    if serve:
        asyncio.run(_serve())
    given = samples.make("queries", str(texts()))
    server = subprocess.Popen([sys.executable, "-m", "benches.load_generator", "--serve"], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        with Session(Spec(url, "float32", str(texts())), given) as session:
            session.window(Load("server", 1.0, 1, rate=rate))
            with Bar(seconds, Console(stderr=True)) as bar:
                bar.step(f"{rate:g} requests a second", seconds)
                start = time.perf_counter()
                window = session.window(Load("server", seconds, 1, rate=rate, seed=1))
        if bar.stopped:
            raise typer.Exit(130)
        found = latencies.summary([window])
    finally:
        server.terminate()
        server.wait()
    typer.echo(f"{found['samples_per_s']:.0f}/s in {time.perf_counter() - start:.1f} s: p99 of lag "
               f"{found['lag_p99_ms']} ms, of latency {found['p99_ms']} ms, {found['failed']} failed")  # fmt: skip
    if found["lag_p99_ms"] > 1e3 * latencies.LATE or found["failed"]:
        typer.echo(f"this machine, as busy as it is, does not hold {rate:g}/s within {1e3 * latencies.LATE:g} ms")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
