"""Structure of the code: which package may import which, and names of files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ROOMS = ["encoders", "vlcap", "train", "app"]  # each may import those before it
FILES = [path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")]


def imported(path: Path) -> set[str]:
    """Top-level names of all packages that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_arrows_point_left(path):
    room = ROOMS.index(path.relative_to(REPOSITORY).parts[0])
    assert not imported(path) & {*ROOMS[room + 1 :], "tests"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_dumping_grounds(path):
    assert not any(word in path.stem for word in ("util", "helper", "common", "misc"))


def test_encoders_know_no_text():
    assert not {"transformers", "datasets"} & set().union(*map(imported, (REPOSITORY / "encoders").glob("*.py")))


@pytest.mark.slow
@pytest.mark.parametrize("package", ROOMS)
def test_importing_reaches_no_network(package):
    program = f"""
import socket, sys
def refuse(*arguments): raise SystemExit(f"a connection was tried: {{arguments[1:]}}")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import importlib, pkgutil, {package}
for module in pkgutil.walk_packages({package}.__path__, "{package}."):
    importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
