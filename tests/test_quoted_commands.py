"""Command lines and paths quoted in docs, docstrings and recipes are real. They are checked, not run.

A `vlcap` command line needs an existing command, options that this command has, recipes that exist and settings that
their trainer knows. A `python` line needs an existing file or module, a `make` line an existing target. Paths that look
like files of this repository have to exist.
"""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from app.cli import app

REPOSITORY = Path(__file__).parents[1]
ROOMS = ("encoders", "vlcap", "train", "app", "tests", "scripts")
PAGES = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), REPOSITORY / "vlcap" / "bundled" / "README.md"]
PROGRAMS = [path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))]
RECIPES = sorted((REPOSITORY / "train" / "recipes").rglob("*.yaml"))
SOURCES = [*PAGES, *PROGRAMS, *RECIPES, REPOSITORY / "Makefile"]

STARTS = ("vlcap", "python", "make", "torchrun")
SETTINGS = {  # classes of recipes, whose fields `--set` sets
    ("train", "classifier"): "ClassifierRecipe",
    ("train", "decoder"): "DecoderRecipe",
    ("train", "captioner"): "CaptionerRecipe",
}
STUDIES = (("train", "table3"), ("train", "study"))
PATH = re.compile(r"(?<![\w./-])(?:app|docs|encoders|scripts|tests|train|vlcap|\.ci)/[\w./-]*\w")
SUFFIXES = (".py", ".md", ".yaml", ".json", ".html", ".svg", ".png", ".csv", ".safetensors")


@cache
def prose(path: Path) -> str:
    """What a person reads in a file: all of a page, a program's docstrings, comments of recipes and the Makefile."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    if path.suffix == ".py":
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        found = [ast.get_docstring(node) for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
        return "\n\n".join(filter(None, found))
    return "\n".join(line.partition("#")[2] for line in text.splitlines())


def quoted(text: str) -> Iterator[str]:
    """The command lines in a text: those in backticks, and whole lines that begin with a command."""
    variables: dict[str, str] = {}
    text = re.sub(r"\\\n\s*", " ", text)
    text = re.sub(r"\n\s*(?=--\w)", " ", text)  # a line that goes on, in a recipe's comment
    inside = False  # of a block of code
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
        if assigned := re.fullmatch(r'([A-Z]+)="([^"]*)"', line.strip()):
            variables[assigned[1]] = assigned[2]
        line = re.sub(r"\$([A-Z]+)\b", lambda name: variables.get(name[1], name[0]), line)
        if is_command(line, in_code=inside or line.startswith("  ")):
            yield line.strip()
    for span in re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        if is_command(span, in_code=True):
            yield " ".join(span.split())


def is_command(line: str, in_code: bool) -> bool:
    words = [word for word in line.split() if not re.fullmatch(r"[A-Z_]+=\S*", word)]  # variables of its environment
    if len(words) < 2 or Path(words[0]).name not in STARTS:
        return False
    # A line of prose may begin with such a word, too: "vlcap captions photos", "make sure".
    return in_code or not words[1].isalpha() or words[1] in targets() | set(tree().commands)


def problem(line: str) -> str | None:
    """What is wrong with a command line; None if nothing is."""
    line = re.split(r"\s[|>;]|\s&&|\s{3,}|\.\.\.", line)[0].replace("[", "").replace("]", "")
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a quote that goes on in the next line
        words = line.split()
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    first, *rest = words
    if first == "torchrun":
        if "vlcap" not in rest or rest[rest.index("vlcap") - 1] != "--no-python":
            return "torchrun runs `--no-python vlcap`"
        return problem_of_vlcap(rest[rest.index("vlcap") + 1 :])
    if first == "vlcap":
        return problem_of_vlcap(rest)
    if Path(first).name == "make":
        wanted = {word for word in rest if "=" not in word}
        return f"no target {wanted - targets()}" if wanted - targets() else None
    return problem_of_python(rest)


def problem_of_vlcap(words: list[str]) -> str | None:
    command, name = tree(), ()
    while words and getattr(command, "commands", None) and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return f"no command {words[0]!r}"
        command, name, words = command.commands[words[0]], (*name, words[0]), words[1:]
    options = {each: option for option in command.params for each in (*option.opts, *option.secondary_opts)}
    positional = [option for option in command.params if option.param_type_name == "argument"]
    given = 0
    while words:
        word, words = words[0], words[1:]
        if word == "-" or not word.startswith("-"):
            given += 1
            continue
        option, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if option in ("--help", "--debug"):
            continue
        if option not in options or option in ("--", ""):
            return f"{' '.join(name)} has no option {option}"
        if options[option].is_flag:
            continue
        if not equals:
            value, words = (words[0], words[1:]) if words else ("", [])
        if found := problem_of_value(name, option, value):
            return found
    if not any(option.nargs == -1 for option in positional) and given > len(positional):
        return f"{' '.join(name)} takes {len(positional)} arguments, not {given}"
    return None


def problem_of_value(name: tuple[str, ...], option: str, value: str) -> str | None:
    """What is wrong with a recipe's name or a setting. Words in capitals stand for a name of the reader's own."""
    if option == "--recipe" and not value.isupper():
        known = {path.stem for path in RECIPES}
        if name in STUDIES:
            known |= {re.sub("^(table3|study)-", "", path.stem) for path in RECIPES}
        return None if value in known or value.endswith(".yaml") else f"no recipe {value!r}"
    if option == "--set" and name in SETTINGS:
        key = value.partition("=")[0]
        return None if key in ("", "key", *fields(SETTINGS[name])) else f"{' '.join(name)} has no setting {key!r}"
    return None


def problem_of_python(words: list[str]) -> str | None:
    if words[0] == "-c":
        return None
    if words[0] == "-m":
        module, options = words[1], words[2:]
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            spec = None
        if spec is None:
            return f"no module {module}"
        path = REPOSITORY.joinpath(*module.split("."))
        program = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    else:
        program, options = REPOSITORY / words[0], words[1:]
        if not program.is_file():
            return f"no file {words[0]}"
    if not program.is_file():  # someone else's: pytest, pip
        return None
    source = program.read_text(encoding="utf-8")
    for option in options:
        name = option.partition("=")[0].lstrip("-").replace("-", "_")
        if option.startswith("--") and name != "help" and not re.search(rf"\b{name}\b", source):
            return f"{program.relative_to(REPOSITORY)} has no option {option}"
    return None


@cache
def tree() -> Any:
    """The `vlcap` command and all commands below it."""
    return typer.main.get_command(app)


@cache
def targets() -> set[str]:
    """Targets of the Makefile."""
    return set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@cache
def recipe_classes() -> dict[str, ast.ClassDef]:
    """The classes of recipes in train/, by name; read, not imported, to be quick."""
    programs = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "train").glob("*.py")]
    nodes = [node for program in programs for node in ast.parse(program).body]
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef) and node.name.endswith("Recipe")}


def fields(recipe: str) -> set[str]:
    """The fields of a recipe, with those of the classes that it extends."""
    found = recipe_classes()[recipe]
    names = {node.target.id for node in found.body if isinstance(node, ast.AnnAssign)}
    return names.union(*(fields(base.id) for base in found.bases if base.id in recipe_classes()))


def missing(path: Path, text: str) -> list[str]:
    """Paths of this repository that a text names and that don't exist."""
    named: list[Any] = [(REPOSITORY, found) for found in PATH.findall(text) if found.endswith(SUFFIXES)]
    named += [(REPOSITORY, found.rstrip("/")) for found in re.findall(r"`([^`\s]+)`", text) if PATH.fullmatch(found)]
    if path.suffix == ".md":
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
        named += [(path.parent, link) for link in links if link and not re.match(r"\w+:", link)]
    return [name for folder, name in named if not (folder / name).exists()]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_quoted_commands_and_paths_exist(path):
    text = prose(path)
    found = [f"{line}: {wrong}" for line in quoted(text) if (wrong := problem(line))]
    found += [f"{name}: no such file" for name in missing(path, text)]
    assert not found


def test_many_are_found():
    assert sum(len(list(quoted(prose(path)))) for path in SOURCES) > 100


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("vlcap catpion photo.jpg", "no command"),
        ("vlcap caption photo.jpg --bugdet 3", "has no option"),
        ("vlcap train captioner --recipe small --data DIR --out RUN", "no recipe"),
        ("vlcap train classifier --set learning_rate=1 --data DIR --out RUN", "has no setting"),
        ("vlcap score a.json b.json c.json", "takes 2 arguments"),
        ("torchrun --nproc_per_node 2 -m app.cli train classifier --data DIR --out RUN", "--no-python"),
        ("python scripts/no_such.py", "no file"),
        ("python -m tests.no_such", "no module"),
        ("python -m tests.fuzz images --cuont 3", "has no option"),
        ("make no-such", "no target"),
    ],
)
def test_stale_ones_are_seen(line, wrong):
    assert list(quoted(f"See\n\n    {line}  # a remark\n")) == [f"{line}  # a remark"]
    assert wrong in problem(line)


def test_missing_files_are_seen():
    text = "Read [this](docs/no_such.md), `vlcap/no_such` and tests/no_such.py."
    assert set(missing(REPOSITORY / "README.md", text)) == {"docs/no_such.md", "tests/no_such.py", "vlcap/no_such"}
