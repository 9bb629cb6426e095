"""Structure of the code: which package may import which, and names of files."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ROOMS = ["encoders", "vlcap", "train", "app"]  # each may import those before it
FILES = [path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")]
OUTSIDE = [path for room in ("vlcap", "train", "app", "scripts") for path in (REPOSITORY / room).rglob("*.py")]
ENCODER_CLASSES = {
    node.name
    for path in (REPOSITORY / "encoders").glob("*.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.ClassDef) and not node.name.endswith("Error")
}


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All nodes of a file's syntax tree."""
    return [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def imported(path: Path) -> set[str]:
    """Top-level names of all packages that a file imports, at its top or inside functions."""
    names = set()
    for node in nodes(path):
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


def drawer(path: Path) -> str:
    """Name of the drawer of vlcap/ that a file lies in, or of the file itself if it lies on top."""
    parts = path.relative_to(REPOSITORY / "vlcap").parts
    return parts[0].removesuffix(".py")


def arrows(path: Path) -> set[str]:
    """Drawers and top files of vlcap/ that a file of it imports, at its top or inside functions."""
    package = path.relative_to(REPOSITORY).parent.parts
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = [*package[: len(package) - node.level + 1]] if node.level else []
            module = [*above, *(node.module or "").split(".")] if node.module else above
            modules = [[*module, alias.name] for alias in node.names] if len(module) == 1 else [module]
        else:
            continue
        found |= {module[1] for module in modules if module[0] == "vlcap" and len(module) > 1}
    return found - {drawer(path)}


def test_drawers_have_no_circle():
    """`static_order` raises CycleError, which names the circle."""
    graph: dict[str, set[str]] = {}
    for path in (REPOSITORY / "vlcap").rglob("*.py"):
        graph.setdefault(drawer(path), set()).update(arrows(path))
    order = [*TopologicalSorter(graph).static_order()]
    assert order.index("errors") < order.index("files") < order.index("data") < order.index("model")
    assert order.index("model") < order.index("captioner") < order.index("evaluation")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_errors_raised_on_purpose_are_our_own(path):
    """The command shows a bare ValueError as a bug. Inside these files, TypeError marks a programmer's mistake."""
    raised = {
        getattr(node.exc.func, "id", "")
        for node in nodes(path)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    }
    assert not raised & {"ValueError", "RuntimeError", "Exception"}


def test_encoders_know_no_text():
    assert not {"transformers", "datasets"} & set().union(*map(imported, (REPOSITORY / "encoders").glob("*.py")))


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_nobody_asks_which_class_an_encoder_is(path):
    """Encoders answer for themselves (encoders/interface.py)."""
    for node in nodes(path):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked = {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)}
            asked |= {each.attr for each in ast.walk(node.args[1]) if isinstance(each, ast.Attribute)}
            assert not asked & ENCODER_CLASSES, f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_nobody_reaches_through_the_encoder(path):
    """`Encoder` in vlcap/model has what others need. Trainers alone handle the timm model in it: they train it."""
    inside = (
        REPOSITORY / "vlcap" / "model",
        REPOSITORY / "train" / "classifier.py",
        REPOSITORY / "train" / "teacher.py",
    )
    text = path.read_text(encoding="utf-8")
    assert "captioner.model.encoder.model" not in text
    assert any(path.is_relative_to(each) for each in inside) or not re.search(r"\bencoder\.model\b", text)


@pytest.mark.slow
def test_importing_reaches_no_network():
    program = f"""
import socket, sys
def refuse(*arguments): raise SystemExit(f"a connection was tried: {{arguments[1:]}}")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import importlib, pkgutil
for package in {tuple(ROOMS)}:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
