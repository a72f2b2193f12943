"""setup.py after a build that was killed: what it left unfinished is made again, and what was whole is kept.

The compiler is a script that writes words in place of machine code, as no more is looked at here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# It writes "half" to its output and kills the build, the compiler with it, if the output's name has $KILL_AT in it.
COMPILER = """#!/bin/bash
while [ "$1" != -o ]; do shift; done
echo "$2" >> compiled
echo half > "$2"
[[ -n $KILL_AT && $2 == *$KILL_AT* ]] && { kill -9 $PPID; exit 1; }
echo whole > "$2"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for package in ("engine", "kernels"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    return tmp_path


def build(project: Path, kill_at: str = "") -> list[str]:
    """The outputs that the compiler was asked for."""
    (project / "compiled").write_text("")
    compiler = str(project / "compiler")
    environment = {**os.environ, "CC": compiler, "CXX": compiler, "LDSHARED": compiler, "KILL_AT": kill_at}
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (-9 if kill_at else 0), done.stderr
    return (project / "compiled").read_text().splitlines()


def kernels(project: Path) -> dict[str, str]:
    """The text of each finished object, by its instruction set."""
    return {path.parts[-3]: path.read_text() for path in (project / "build").glob("kernels-*/*/csrc/kernels.o")}


def test_killed_within_kernels(project: Path) -> None:
    """Others may be compiled at the same time, so that the kill leaves several unfinished."""
    build(project, kill_at="/generic/")
    finished = kernels(project)
    again = {Path(name).parts[-4] for name in build(project) if "kernels-" in name}
    assert "generic" in again
    assert again == kernels(project).keys() - finished.keys()
    assert set(kernels(project).values()) == {"whole\n"}
    assert len(kernels(project)) > 1


def test_killed_within_the_link(project: Path) -> None:
    build(project, kill_at="_C.")
    again = build(project)
    assert not [name for name in again if "kernels-" in name]
    [extension] = (project / "build").glob("lib*/distilrt/_C*.so")
    assert extension.read_text() == "whole\n"
    assert build(project) == []
