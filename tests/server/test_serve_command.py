"""`distilrt serve` as a process: it starts, serves, and ends under load without losing a request."""

from __future__ import annotations

import http.client
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from distilrt import _C
from distilrt.__main__ import main
from distilrt.faster_dtypes import faster_dtypes
from distilrt.isas import why_not_the_best
from distilrt.text.tokenizer import DistilBertTokenizer

CLASSIFIER = "DistilBertForSequenceClassification"
PATIENCE = 60


class Server:
    """A running server; only once it says on which port it listens."""

    def __init__(self, arguments: list[str], variables: dict[str, str]) -> None:
        command = [sys.executable, "-m", "distilrt", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, env=os.environ | variables, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.line = self.process.stderr.readline()
        self.port = int(self.line.rpartition(":")[2])

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def until_ready(self) -> None:
        while self.ask("GET", "/readyz")[0] != 200:
            time.sleep(0.01)

    def end(self, sent: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Exit code, and what else it said."""
        self.process.send_signal(sent)
        assert self.process.stderr is not None
        return self.process.wait(PATIENCE), self.process.stderr.read()


@pytest.fixture
def serve() -> Any:
    @contextmanager
    def serving(*arguments: str, **variables: str) -> Iterator[Server]:
        server = Server([*arguments, "--threads", "1"], variables)
        try:
            yield server
        finally:
            server.process.kill()
            server.process.wait()
            if server.process.stderr is not None:
                server.process.stderr.close()

    return serving


def test_it_ends_under_load_and_every_request_is_answered(folder_of: Callable[..., Path], serve: Any) -> None:
    with serve("--model", f"tiny={folder_of(CLASSIFIER)}", "--drain-delay", "2") as server:
        assert server.line.startswith("distilrt: serving tiny on http://127.0.0.1:")
        server.until_ready()
        stop = threading.Event()
        answers: list[int] = []
        lost: list[Exception] = []

        def client(number: int) -> None:
            """Keeps a connection while the server does; sends nothing once a balancer would not."""
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
            while not stop.is_set():
                try:
                    connection.request("POST", "/", json.dumps({"inputs": f"text {number} " * (number % 5 + 1)}))
                    response = connection.getresponse()
                    response.read()
                except (OSError, http.client.HTTPException) as error:
                    lost.append(error)
                    break
                answers.append(response.status)
            connection.close()

        clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for each in clients:
            each.start()
        while len(answers) < 100:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        while server.ask("GET", "/readyz")[0] == 200:
            time.sleep(0.01)
        before = len(answers)
        while len(answers) < before + 20:  # not ready, and still serving
            time.sleep(0.01)
        stop.set()
        for each in clients:
            each.join(PATIENCE)
        assert server.process.wait(PATIENCE) == 0
        assert not lost
        assert set(answers) == {200}
        with pytest.raises(ConnectionRefusedError):
            server.ask("GET", "/livez")


def test_what_is_computed_when_it_ends_is_still_sent(folder_of: Callable[..., Path], serve: Any) -> None:
    """A request that takes longer than the delay, on a connection that was there before."""
    with serve("--model", str(folder_of(CLASSIFIER)), "--drain-delay", "0", "--max-tokens", "1000000") as server:
        server.until_ready()
        done: list[tuple[int, Any]] = []
        inputs = ["word " * 50] * 2000
        asking = threading.Thread(target=lambda: done.append(server.ask("POST", "/", {"inputs": inputs})))
        asking.start()
        while not waiting(server):
            assert asking.is_alive()
            time.sleep(0.005)
        code, rest = server.end(signal.SIGINT)
        asking.join(PATIENCE)
        assert (code, rest) == (0, "")
        [(status, labels)] = done
        assert (status, len(labels)) == (200, 2000)


def waiting(server: Server) -> float:
    """Requests in its queue."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request("GET", "/metrics")
    families = text_string_to_metric_families(connection.getresponse().read().decode())
    connection.close()
    return sum(family.samples[0].value for family in families if family.name == "distilrt_queue_requests")


def test_vanishing_and_broken_clients_leave_it_as_it_was(folder_of: Callable[..., Path], serve: Any) -> None:
    with serve("--model", str(folder_of(CLASSIFIER)), "--body-timeout", "0.2", "--drain-delay", "0") as server:
        server.until_ready()
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: "
        for sent in (b"", b"POST / HT", head + b"15\r\n\r\n", head + b'15\r\n\r\n{"inputs"', b"\x16\x03\x01\x02\x00",
                     head + b'15\r\n\r\n{"inputs": "a"}'):  # fmt: skip
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(sent)
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as slow:
            slow.sendall(head + b'15\r\n\r\n{"inputs"')
            assert slow.makefile("rb").readline() == b"HTTP/1.1 408 Request Timeout\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as large:
            large.sendall(head + b"99999999\r\n\r\n{")
            assert large.makefile("rb").readline().startswith(b"HTTP/1.1 413 ")
        assert server.ask("POST", "/", {"inputs": "a"})[0] == 200
        assert server.end()[0] == 0


def test_options_and_variables(folder_of: Callable[..., Path], serve: Any) -> None:
    folders = [folder_of(CLASSIFIER), folder_of("DistilBertForMaskedLM")]
    with serve("--truncate", DISTILRT_MODELS=f"{folders[0]} masks={folders[1]}", DISTILRT_MAX_INPUTS="1") as server:
        server.until_ready()
        assert server.ask("GET", "/readyz")[1]["models"] == [folders[0].name, "masks"]
        assert server.ask("POST", "/", {"inputs": "a " * 600})[0] == 200
        assert server.ask("POST", "/", {"inputs": ["a", "a"]})[0] == 413
        assert server.ask("POST", "/models/masks", {"inputs": "[MASK]"})[0] == 200


REFUSED: list[tuple[list[str], str]] = [
    ([], "give at least one --model, or DISTILRT_MODELS"),
    (["-m", "./nowhere"], "folder './nowhere' does not exist"),
    (["-m", "a=MODEL", "-m", "a=MODEL"], "two models are called 'a'"),
    (["-m", "MODEL", "--port", "65536"], "port must be an integer from 0 to 65535"),
    (["-m", "MODEL", "--max-delay", "-1"], "max_delay must be"),
    (["-m", "MODEL", "--dtype", "int3"], "'int3'"),
    (["-m", "./nowhere", "--host", "999.1.1.1"], "can't listen on 999.1.1.1:8080: "),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_served(
    folder_of: Callable[..., Path], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["serve", *(word.replace("MODEL", str(folder_of(CLASSIFIER))) for word in arguments)])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_port_that_is_taken(folder_of: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "distilrt", "serve", "-m", str(folder_of(CLASSIFIER)), "--port",
                   str(taken.getsockname()[1])]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert "can't listen on 127.0.0.1:" in done.stderr
    assert "Address already in use; choose another --host or --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_person_is_told(folder_of: Callable[..., Path]) -> None:
    """On a terminal: what is computed how, and that it ends."""
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "distilrt", "serve", "--port", "0", "--threads", "1", "--drain-delay", "0.2",
               "-m", f"tiny={folder_of(CLASSIFIER)}", "--backend", "cpu"]  # fmt: skip
    with subprocess.Popen(command, stderr=end) as process, os.fdopen(terminal) as said:
        os.close(end)
        assert said.readline().startswith("distilrt: serving tiny on http://127.0.0.1:")
        line = said.readline()
        assert line == "distilrt: tiny: text-classification, zero-shot-classification; cpu, float32, 1 thread\n"
        if faster_dtypes({"isa": _C.available_isas()[0], "dtype": "float32"}):
            assert said.readline().startswith("distilrt: tiny: faster here: ")
        if words := why_not_the_best(_C.available_isas()[0]):
            assert said.readline() == f"distilrt: tiny: {words}\n"
        process.send_signal(signal.SIGINT)
        assert "all that comes within 0.2 s is answered" in said.readline()
        assert process.wait(PATIENCE) == 0


def test_the_slowest_instruction_set_is_in_the_log(folder_of: Callable[..., Path], serve: Any) -> None:
    with serve("--model", f"tiny={folder_of(CLASSIFIER)}", "--backend", "cpu", DISTILRT_FORCE_ISA="generic") as server:
        server.until_ready()
        _, said = server.end()
    assert "WARNING distilrt.server: tiny: instruction set generic, as DISTILRT_FORCE_ISA says" in said


def test_the_help_names_defaults() -> None:
    done = subprocess.run([sys.executable, "-m", "distilrt", "serve", "--help"], capture_output=True, text=True)
    said = " ".join(done.stdout.replace("│", " ").split())
    for default in ("127.0.0.1", "8080", "2048", "262144", "2000000", "512, on a GPU 16384", "no limit", "text"):
        assert f"[default: ({default})]" in said


def test_other_commands_load_no_server() -> None:
    code = "import distilrt.cli, sys; distilrt.cli.app(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"starlette", "uvicorn", "msgspec", "orjson", "prometheus_client"} & set(loaded)


def test_without_the_extra() -> None:
    code = "import sys; sys.modules['starlette'] = None; from distilrt.__main__ import main; main(['serve', '-m', 'x'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'distilrt[serve]'" in done.stderr


@pytest.fixture
def slow(folder_of: Callable[..., Path], tmp_path: Path) -> Path:
    """A model that takes a text of 6000 tokens, which takes long."""
    folder = folder_of(CLASSIFIER, n_layers=8, max_position_embeddings=6000)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    DistilBertTokenizer.from_pretrained(folder, model_max_length=6000).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_while_it_warms_up(slow: Path, serve: Any, sent: signal.Signals) -> None:
    options = ["--drain-delay", "0", "--drain-timeout", "1", "--max-batch-tokens", "200000"]
    with serve("--model", str(slow), *options, DISTILRT_FORCE_ISA="generic") as server:
        assert server.ask("GET", "/readyz")[1]["status"] == "warming up"
        code, said = server.end(sent)
    assert code == 0
    assert [line for line in said.splitlines() if "instruction set generic" not in line] == []


@pytest.mark.whole
def test_it_ends_in_time_whatever_runs(slow: Path, serve: Any) -> None:
    """One text is being tokenized and another computed, each of which takes longer than there is."""
    options = ["--drain-delay", "0.2", "--drain-timeout", "1", "--max-body-bytes", "30000000"]
    with serve("--model", str(slow), *options, DISTILRT_FORCE_ISA="generic") as server:
        server.until_ready()
        answers: list[tuple[int, Any]] = []
        asking = [
            threading.Thread(
                target=lambda text: answers.append(server.ask("POST", "/", {"inputs": text})), args=(text,)
            )
            for text in ("A" * 25_000_000, "word " * 5900)
        ]
        for each in asking:
            each.start()
        time.sleep(1.5)
        start = time.monotonic()
        code, said = server.end()
        assert code == 0
        assert time.monotonic() - start < 0.2 + 1 + 3  # as much as it gives itself for threads that do not end
        assert "Traceback" not in said
        for each in asking:
            each.join(PATIENCE)
        assert [status for status, _ in answers] == [503, 503]


def test_it_ends_without_streams(folder_of: Callable[..., Path]) -> None:
    """With stdin, stdout and stderr closed, no socket gets their numbers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "distilrt", "serve", "--port", str(port), "--threads", "1", "--drain-delay", "0",
               "-m", str(folder_of(CLASSIFIER))]  # fmt: skip
    with subprocess.Popen(["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *command]) as process:
        while process.poll() is None:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        process.terminate()
        assert process.wait(PATIENCE) == 0
