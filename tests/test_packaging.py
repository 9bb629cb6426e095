"""The wheel: its contents, and that it works outside the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import drawings

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]
ROOMS = ("encoders", "vlcap", "train", "app")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, because a build leaves files behind
    source.mkdir()
    for name in ROOMS:
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyi"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source],
        check=True,
        capture_output=True,
    )
    [path] = folder.glob("*.whl")
    return path


def test_the_wheel_holds_what_it_should(wheel):
    """All files of the packages, and no others."""
    there = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    meant = {
        str(path.relative_to(REPOSITORY))
        for room in ROOMS
        for path in (REPOSITORY / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyi"
    }
    assert there == meant
    kinds = {".py", ".yaml", ".json", ".safetensors", ".onnx", ".bin", ".md", ".html", ".css", ".js", ".jpg"}
    assert {Path(name).suffix for name in there} <= kinds
    assert wheel.stat().st_size < 30 * 1024**2


def test_installed_from_the_wheel_it_captions(wheel, tmp_path):
    """Outside the repository: the bundled captioner, the recipes, and the command's entry point."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel],
        check=True,
        capture_output=True,
    )
    drawings.draw(0).save(tmp_path / "photo.png")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    program = "import vlcap, train.recipe; print(vlcap.__file__, train.recipe.__file__)"

    def run(*command: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *map(str, command)], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    assert all(path.startswith(str(tmp_path / "site")) for path in run("-c", program).stdout.split())
    done = run(tmp_path / "site" / "bin" / "vlcap", "caption", "photo.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("photo.png: ") and len(done.stdout.split()) > 2
