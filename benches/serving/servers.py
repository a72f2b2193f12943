"""Server processes on this machine: how each is started, when it is ready, the memory that it takes, its end."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from distilrt import models, packed
from distilrt.bench.artefacts import artefact, last_line, make_checkpoint, worker_environment

HERE = Path(__file__).parent
PATIENCE = 180.0  # seconds to be ready


@dataclass(frozen=True)
class Kind:
    """A server to start: `{folder}`, `{onnx}`, `{packed}`, `{port}` and `{threads}` stand for what is known later."""

    dtype: str
    command: tuple[str, ...]


def _script(name: str) -> str:
    return str(HERE / name)


KINDS: dict[str, Kind] = {
    "distilrt": Kind("int8", ("-m", "distilrt", "serve", "--model", "{packed}", "--port", "{port}", "--threads",
                              "{threads}")),
    "distilrt-float32": Kind("float32", ("-m", "distilrt", "serve", "--model", "{folder}", "--dtype", "float32",
                                         "--port", "{port}", "--threads", "{threads}")),
    "onnx-threads": Kind("int8", (_script("onnx_server.py"), "{folder}", "{onnx}", "--port", "{port}", "--form",
                                  "threads", "--threads", "{threads}")),
    "onnx-worker": Kind("int8", (_script("onnx_server.py"), "{folder}", "{onnx}", "--port", "{port}", "--form",
                                 "worker", "--threads", "{threads}")),
    "pipeline": Kind("float32", (_script("pipeline_server.py"), "{folder}", "--port", "{port}", "--threads",
                                 "{threads}")),
    "pipeline-bfloat16": Kind("bfloat16", (_script("pipeline_server.py"), "{folder}", "--port", "{port}", "--dtype",
                                           "bfloat16", "--threads", "{threads}")),
}  # fmt: skip


def model(cache: Path, texts: Path) -> Path:
    """DistilBERT-base with random weights, two labels and a tokenizer; `texts` has the tokenizer's files."""
    folder = make_checkpoint(cache / "distilbert-base-served")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(texts / name, folder / name)
    return folder


def _packed(folder: Path) -> Path:
    """The model packed in int8."""
    out = folder.with_name(folder.name + "-int8")
    if packed.find(out) is None:
        loaded = models.DistilBertForSequenceClassification.from_pretrained(folder, backend="cpu", dtype="int8")
        packed.write(out, loaded, lambda name: folder / name if (folder / name).exists() else None)
    return out


class Server:
    """One of `KINDS`, running.

    Args:
        name: its key.
        folder: the checkpoint.
        threads: of its engine.
        python: the interpreter of its environment.

    Attributes:
        url: where it answers.
        start_s: seconds from its start to the first answer of `GET /readyz`.

    Raises:
        RuntimeError: it ended, or was not ready in time.
    """

    def __init__(self, name: str, folder: Path, threads: int, python: str = sys.executable) -> None:
        self.name, kind = name, KINDS[name]
        self.dtype = kind.dtype
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        known = {"folder": folder, "port": port, "threads": threads}
        words = " ".join(kind.command)
        if "{onnx}" in words:
            known["onnx"] = artefact(folder, "onnx-int8") / "model.onnx"
        if "{packed}" in words:
            known["packed"] = _packed(folder)
        command = [python, *(word.format(**known) for word in kind.command)]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        start = time.perf_counter()
        self.process = subprocess.Popen(command, env=worker_environment(threads), stdout=self._log, stderr=self._log)
        try:
            while not self._ready(port):
                if self.process.poll() is not None:
                    self._log.seek(0)
                    said = last_line(self._log.read().decode(errors="replace"))
                    raise RuntimeError(f"{name} ended with {self.process.returncode}: {said}")
                if time.perf_counter() - start > PATIENCE:
                    raise RuntimeError(f"{name} was not ready in {PATIENCE:.0f} s")
                time.sleep(0.01)
        except BaseException:
            self.close()
            raise
        self.start_s = time.perf_counter() - start

    @staticmethod
    def _ready(port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def rss_mb(self) -> float:
        """Memory that it has now."""
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines())
        return int(fields["VmRSS"].split()[0]) / 1024

    def close(self) -> None:
        """End it, as an operator would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
