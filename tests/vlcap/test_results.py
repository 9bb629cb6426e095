"""Places for results: refused before the work begins if they cannot be written or hold a person's file."""

import json
import os
import sys

import pytest
from matplotlib.figure import Figure

from tests.support import drawings
from vlcap.files.results import LIST, OutputError, check_folder, check_picture, results

NAMES = ("metrics.json", "predictions.json")


def run(folder, content="ours"):
    with results(folder, NAMES):
        for name in NAMES:
            (folder / name).write_text(content)


def test_our_own_results_are_replaced_and_nothing_else(tmp_path):
    folder = tmp_path / "new" / "results"
    run(folder)
    (folder / "notes.txt").write_text("mine")
    run(folder, "ours, later")
    assert (folder / "metrics.json").read_text() == "ours, later"
    assert sorted(os.listdir(folder)) == [LIST, "metrics.json", "notes.txt", "predictions.json"]


@pytest.mark.parametrize("there", ["another's", "changed", "link", "folder", "list damaged"])
def test_a_persons_file_is_refused_before_the_work(tmp_path, there):
    path = tmp_path / "metrics.json"
    if there in ("changed", "list damaged"):
        run(tmp_path)
    if there == "list damaged":
        (tmp_path / LIST).write_text("[1")
    elif there == "link":
        (tmp_path / "elsewhere").write_text("mine")
        path.symlink_to(tmp_path / "elsewhere")
    elif there == "folder":
        path.mkdir()
    else:
        path.write_text("mine")
    before = {each: each.read_text() for each in tmp_path.iterdir() if each.is_file()}
    problem = (
        "is not a list written by vlcap" if there == "list damaged" else "was not written by vlcap, or changed since"
    )
    with pytest.raises(OutputError, match=rf"\.json: {problem}: move it or choose another folder"):
        run(tmp_path, "not to be written")
    assert {each: each.read_text() for each in tmp_path.iterdir() if each.is_file()} == before


def test_after_an_interruption_the_same_command_goes_on(tmp_path):
    class Killed(BaseException):
        pass

    with pytest.raises(Killed), results(tmp_path, NAMES):
        (tmp_path / "predictions.json").write_text("half of the work")
        raise Killed
    run(tmp_path)
    written = json.loads((tmp_path / LIST).read_text())
    written["written by vlcap"]["metrics.json"] = ""  # as kill -9 leaves it
    (tmp_path / LIST).write_text(json.dumps(written))
    (tmp_path / "metrics.json").write_text("half")
    run(tmp_path, "whole")
    assert (tmp_path / "metrics.json").read_text() == "whole"


def test_results_within_results_are_ours(tmp_path):
    """`vlcap export` claims the files that it knows first, and the others when the captioner is loaded."""
    for content in ("one", "two"):
        with results(tmp_path, NAMES[:1]), results(tmp_path, NAMES):
            for name in NAMES:
                (tmp_path / name).write_text(content)


def test_no_folder_is_nothing_to_look_at():
    with results(None, NAMES):
        pass


def test_places_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place, problem in {
        tmp_path / "file": "a file is in the place of this folder",
        tmp_path / "file" / "below": "a file is in the place of this folder",
        tmp_path / ("x" * 300): r"this folder cannot be made \(File name too long\)",
        type(tmp_path)("/proc/self/results"): "this folder cannot be made",
        type(tmp_path)("/proc/self"): "nothing can be written here",
    }.items():
        if place.parts[1] == "proc" and not os.path.isdir("/proc/self"):
            continue
        with pytest.raises(OutputError, match=problem) as caught:
            check_folder(place)
        assert str(place) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_pictures_of_ours_are_drawn_again_and_photos_are_not_drawn_over(tmp_path, kind):
    path = tmp_path / "new" / f"maps.{kind}"
    for _ in range(2):
        Figure().savefig(path, metadata=check_picture(path))
    drawings.draw(0).save(tmp_path / "photo.png")
    path.write_bytes((tmp_path / "photo.png").read_bytes())
    with pytest.raises(OutputError, match="was not drawn by vlcap"):
        check_picture(path)
    for name in ("maps", "maps.gif", "maps.jpg"):
        with pytest.raises(OutputError, match=r"must end in \.png, \.svg, \.pdf"):
            check_picture(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "evaluate --data {data} --split val --out {file}",
        "compare --model bundled --data {data} --split val --out {file}",
        "attention {photo} -o {file}/maps.png",
        "attention {photo} -o {photo}",
        "export {file}",
        "bench encoder --out {file}",
        "bench --out {file}",
        "bench train --out {file}",
        "train table3 --data-classes {data} --data-captions {data} --out {file} --set split=val",
        "evaluate --data {data} --split val --out {theirs}",
        "compare --model bundled --data {data} --split val --out {theirs}",
        "export {theirs}",
        "bench encoder --out {theirs}",
        "train table3 --data-classes {data} --data-captions {data} --out {theirs}/.. --set split=val",
    ],
)
def test_every_command_looks_at_its_output_before_it_works(command, captioned_folder, tmp_path, monkeypatch, capsys):
    import app.cli

    def work(*unused, **also):
        raise AssertionError("the work has begun")

    for place in (
        "app.loading.load",
        "vlcap.bench.benchmark.run",
        "train.benchmark.bench_training",
        "train.study.train_study",
    ):
        monkeypatch.setattr(place, work)
    theirs = tmp_path / "run" / "comparison"
    theirs.mkdir(parents=True)
    for name in ("metrics.json", "comparison.html", "tokenizer.json", "bench.json"):
        (theirs / name).write_text("mine")
    drawings.draw(0).save(tmp_path / "photo.png")
    (tmp_path / "file").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = {"data": captioned_folder, "file": tmp_path / "file", "photo": tmp_path / "photo.png", "theirs": theirs}
    monkeypatch.setattr(sys, "argv", ["vlcap", *command.format(**places).split()])
    with pytest.raises(SystemExit) as ended:
        app.cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert len(said.splitlines()) == 1 and ("choose another" in said), said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
