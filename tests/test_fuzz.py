"""The readers with a few hostile inputs each; `python -m tests.fuzz` is the long form."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "readers",
    [
        "images archives videos coco karpathy references predictions parquet sidecars metadata tables shards labeling",
        "models encoders decoders bytes clips classes labels recipes layouts",
    ],
)
def test_no_input_does_harm(readers):
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *readers.split(), "--count", "16", "--seed", "1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(", 0 defects") == len(readers.split())


def test_no_captioner_folder_does_harm_to_the_export():
    """Few, because each that is accepted is exported."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "graphs", "--count", "3", "--seed", "1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0 and ", 0 defects" in done.stdout, done.stdout + done.stderr


def test_the_fuzzer_sees_harm():
    """The fuzzer finds each kind of defect: another exception, no file name, an ended process, too much memory."""
    from tests.fuzz import Reader, fuzz

    def make(rng, folder):
        (folder / "input").write_text(str(rng.randrange(5)))
        return folder / "input"

    def read(path):
        match path.read_text():
            case "0":
                raise KeyError("another")
            case "1":
                raise ValueError("no name")
            case "2":
                import os

                os._exit(3)
            case "3":
                return len(b"1" * (1200 << 20))
            case "4":
                raise ValueError("input: as it should be")

    report = fuzz("harm", Reader(make, read, (ValueError,)), count=30, seed=0)
    assert report.refused + len(report.defects) == 30 and report.refused
    for kind in ("KeyError", "doesn't name", "ended with 3", "MB"):
        assert any(kind in defect for defect in report.defects), kind
