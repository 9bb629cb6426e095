"""The command line at its edges: empty names, closed streams, other encodings, misleading names."""

import io
import json
import os
import subprocess
import sys

import pytest
import typer

from app.printing import print_json
from tests.support import drawings
from vlcap.data.names import plain_line


def vlcap(*arguments, before: str = "", **variables) -> subprocess.CompletedProcess:
    """Runs the command in a process, after shell commands that change its streams, and with other variables."""
    command = ["/bin/sh", "-c", f'{before} exec "$0" -m app.cli "$@"', sys.executable, *map(os.fspath, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(command, capture_output=True, timeout=200, env=environment)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_json_is_json_in_every_alphabet(monkeypatch, encoding):
    value = {"plain": 1, "é": "犬 \U0001f986 \udcff \n"}
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="backslashreplace"))
    for indent in (None, 2):
        print_json(value, indent)
    print_json({"é": 1})
    sys.stdout.flush()
    one, *two, last = written.getvalue().decode(encoding).splitlines()
    assert json.loads(one) == json.loads("\n".join(two)) == value
    assert last == ('{"\\u00e9": 1}' if encoding == "ascii" else '{"é": 1}')


def test_a_strangers_caption_is_one_plain_line(monkeypatch, capsys):
    """D8: escape codes, ends of lines and letters that turn the direction, in text and in JSON."""
    evil = "a\x1b[31m dog\n\rruns\x9b2J\u202eevil\u2066\x07 \u2028 犬"
    assert plain_line(evil) == "a[31m dog runs2Jevil 犬"
    print_json({"caption": evil})
    [line] = capsys.readouterr().out.splitlines()
    assert line.isprintable() and json.loads(line) == {"caption": evil}


@pytest.mark.slow
def test_captions_as_json_on_a_terminal_of_ascii(captioner_folder, on_onnx, tmp_path):
    """A name that is not valid text comes back as the same bytes."""
    names = ["é 犬 \U0001f986.png".encode(), b"no \xff text.png"]
    for name in names:
        drawings.draw(0).save(tmp_path / "x.png")
        os.rename(tmp_path / "x.png", os.fsencode(tmp_path) + b"/" + name)
    done = vlcap("caption", tmp_path, "--json", "--model", captioner_folder, PYTHONIOENCODING="ascii", **on_onnx)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line)["image"] for line in done.stdout.decode("ascii").splitlines()]
    assert sorted(os.fsencode(name) for name in found) == sorted(os.fsencode(tmp_path) + b"/" + name for name in names)


@pytest.mark.parametrize(
    ("arguments", "which"),
    [
        (["caption", ""], ""),
        (["caption", "a.jpg", ""], ""),
        (["caption", "a.jpg", "--model", ""], " for --model"),
        (["evaluate", "--data="], " for --data"),
        (["evaluate", "--data", "x", "--out", ""], " for --out"),
        (["attention", "a.jpg", "-o", ""], " for -o"),
        (["train", "captioner", "--encoder", "", "--data", "x", "--out", "y"], " for --encoder"),
        (["train", "classifier", "--init-from=", "--data", "x", "--out", "y"], " for --init-from"),
        (["compare", "--model", "multi=", "--data", "{data}", "--split", "val", "--out", "{out}"], "--model multi="),
    ],
)
def test_an_empty_name_is_refused(arguments, which, monkeypatch, capsys, captioned_folder, tmp_path):
    import app.cli

    places = {"data": captioned_folder, "out": tmp_path / "out"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vlcap", *(each.format(**places) for each in arguments)])
    with pytest.raises(SystemExit) as ended:
        app.cli.main()
    said = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 2, said
    assert f"{which}: " in said and "a shell's variable unset?" in said.replace("│ ", ""), said


def test_an_empty_caption_and_an_empty_setting_are_no_empty_names(monkeypatch, capsys):
    import app.cli

    for arguments in (["baselines", "--constant", ""], ["baselines", "--constant="], ["x", "--set", "encoder="]):
        app.cli._refuse_empty(arguments)


def test_standard_output_closed(tmp_path):
    drawings.draw(0).save(tmp_path / "a.png")
    done = vlcap("caption", tmp_path / "a.png", before="exec >&-;")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [b"vlcap: standard output is closed: there is nowhere to print to"]


@pytest.mark.slow
def test_all_streams_closed_and_results_in_a_file(captioner_folder, on_onnx, tmp_path):
    """A file that is opened must not get the descriptor of a closed stream, and be written to."""
    drawings.draw(0).save(tmp_path / "a.png")
    arguments = ["attention", tmp_path / "a.png", "-o", tmp_path / "maps.svg", "--model", captioner_folder]
    done = vlcap(*arguments, before="exec <&- >&- 2>&-;", **on_onnx)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / "maps.svg").read_bytes().startswith(b"<?xml")
    done = vlcap("caption", "", before="exec 2>&-;")
    assert (done.returncode, done.stdout) == (2, b"")  # an error message is not a result


@pytest.mark.parametrize("kind", ["captioner", "encoder"])
def test_a_folder_with_an_equals_sign_is_a_folder(kind, tmp_path, monkeypatch):
    from app.parsing import parse_named

    def named(text):
        return parse_named("--model", text)

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "lr=0.001" / kind
    folder.mkdir(parents=True)
    (tmp_path / "wd=0").mkdir()
    assert named(str(folder)) == ("lr=0.001", str(folder))
    assert named("wd=0") == ("wd=0", "wd=0")
    assert named(f"small={folder}") == ("small", str(folder))
    assert named(f"runs/lr=0.1/{kind}") == ("lr=0.1", f"runs/lr=0.1/{kind}")
    assert named("bundled") == named("bundled=bundled") == ("bundled", "bundled")
    assert named("a=timm:vit=1") == ("a", "timm:vit=1") and named("timm:vit=1") == ("timm:vit=1", "timm:vit=1")
    assert named("a\udcff=x") == ("'a\\udcff'", "x")  # a name that the page's encoding can hold
    for wrong in ("a=", "=a"):
        with pytest.raises(typer.BadParameter, match=f"--model {wrong}: an empty name"):
            named(wrong)


def test_baselines_without_a_train_split(captioned_folder, tmp_path, monkeypatch, capsys):
    import app.cli

    folder = drawings.write_coco_folder(tmp_path / "data", {"val2014": 4})
    monkeypatch.setattr(sys, "argv", ["vlcap", "baselines", "--data", str(folder), "--split", "val"])
    with pytest.raises(SystemExit):
        app.cli.main()
    [line] = capsys.readouterr().err.splitlines()
    assert "no split 'train'" in line and "--constant TEXT" in line


@pytest.mark.slow
def test_our_warnings_are_one_line(tmp_path, monkeypatch, capsys):
    import warnings

    import app.cli

    folder = drawings.write_coco_folder(tmp_path / "data", {"val2014": 4})
    path = folder / "annotations" / "captions_val2014.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][3:]
    path.write_text(json.dumps(content))
    monkeypatch.setattr(sys, "argv", ["vlcap", "baselines", "--data", str(folder), "--split", "val", "--constant", "a"])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.raises(SystemExit):
            app.cli.main()
    said = capsys.readouterr().err.splitlines()
    assert said == [f"vlcap: warning: {path}: photos without a caption, skipped: 1"]
