"""The static page as files, without a browser: what is written, what is refused, and how ONNX Runtime is fetched."""

import base64
import hashlib
import io
import json
import os
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.command import vlcap
from vlcap.captioner import BUNDLED
from vlcap.engines.onnx import OnnxEngine
from vlcap.errors import CaptionerError
from vlcap.export import runtime
from vlcap.export.site import KIND, PAGE, PART, About, check_engine, write_site
from vlcap.files.writing import NotOursError

CONTENT = {name: name.encode() * 3 for name in runtime.FILES}


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """An unpacked package with small files, which is the expected one."""
    monkeypatch.setattr(runtime, "FILES", {name: hashlib.sha256(each).hexdigest() for name, each in CONTENT.items()})
    folder = tmp_path / "package" / "dist"
    folder.mkdir(parents=True)
    for name, each in CONTENT.items():
        (folder / name).write_bytes(each)
    return folder.parent


@pytest.fixture
def npm(tmp_path, monkeypatch, package):
    """Puts a program in npm's place that packs these files; a cache of its own."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.add(package, "package")
        archive.addfile(tarfile.TarInfo("../../outside"), io.BytesIO())
    packed, program = tmp_path / "packed.tgz", tmp_path / "bin" / "npm"
    packed.write_bytes(file.getvalue())
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\ncp {packed} "$5/onnxruntime-web.tgz"\n')
    program.chmod(0o755)
    digest = base64.b64encode(hashlib.sha512(file.getvalue()).digest()).decode()
    monkeypatch.setattr(runtime, "INTEGRITY", f"sha512-{digest}")
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("VLCAP_CACHE", str(tmp_path / "cache"))
    return program


@pytest.fixture(scope="module")
def engine():
    return OnnxEngine(BUNDLED, threads=1)


def test_npm_fetches_the_pinned_version_once(npm, tmp_path):
    for _ in range(2):
        folder = runtime.runtime_folder()
        assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    [called] = (tmp_path / "called").read_text().splitlines()
    assert called.startswith(f"pack onnxruntime-web@{runtime.VERSION} ")
    assert not (tmp_path / "outside").exists()


def test_a_file_that_the_cache_lacks_is_fetched_again(npm):
    folder = runtime.runtime_folder()
    name = next(iter(CONTENT))
    (folder / name).unlink()
    assert runtime.runtime_folder() == folder and (folder / name).read_bytes() == CONTENT[name]


def test_another_content_is_refused(npm, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "INTEGRITY", "sha512-0000")
    with pytest.raises(runtime.RuntimeFilesError, match="not the expected package"):
        runtime.runtime_folder()
    assert not list((tmp_path / "cache").rglob("*.wasm"))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n", "ENOTFOUND"),
        (None, "which is not installed"),
    ],
)
def test_without_npm_or_network_it_says_what_to_do(npm, tmp_path, monkeypatch, script, said):
    if script:
        npm.write_text(script)
    else:
        monkeypatch.setattr(runtime.shutil, "which", lambda *arguments, **options: None)
    with pytest.raises(runtime.RuntimeFilesError, match=f"{said}.*--runtime FOLDER"):
        runtime.runtime_folder()


def test_an_unpacked_package_is_taken_where_it_is_named(package):
    assert runtime.runtime_folder(package) == package / "dist"
    assert runtime.runtime_folder(package.parent) == runtime.runtime_folder(package / "dist") == package / "dist"
    (package / "dist" / next(iter(CONTENT))).write_text("another version")
    with pytest.raises(runtime.RuntimeFilesError, match="not the file of onnxruntime-web"):
        runtime.runtime_folder(package)
    with pytest.raises(runtime.RuntimeFilesError, match="not the unpacked npm package"):
        runtime.runtime_folder(package / "nowhere")


def test_the_pages_files_are_all_there(engine, package, tmp_path):
    folder = tmp_path / "site"
    size = write_site(folder, engine, package / "dist", [7, 3], About(card=BUNDLED / "README.md"))
    site = json.loads((folder / "site.json").read_text(encoding="utf-8"))
    assert site["budgets"] == [3, 7] and site["budget"] == 7 and len(site["gflops"]) == 2
    assert {"decoder", "encoder-3", "encoder-7"} == {*site["graphs"]}
    assert all({*weights} <= {*site["files"]} for weights in site["graphs"].values())
    for name, stored in site["files"].items():
        content = b"".join((folder / part).read_bytes() for part, _ in stored["parts"])
        assert [length for _, length in stored["parts"]] == [
            (folder / part).stat().st_size for part, _ in stored["parts"]
        ]
        assert len(content) == stored["bytes"]
        assert all(length <= PART for _, length in stored["parts"])
        original = BUNDLED / name
        assert content == (original.read_bytes() if original.exists() else CONTENT["ort-wasm-simd-threaded.wasm"])
    assert all((folder / path.name).read_bytes() == path.read_bytes() for path in PAGE.iterdir() if path.is_file())
    assert all((folder / link["file"]).stat().st_size for link in site["links"])
    assert size < sum(path.stat().st_size for path in folder.iterdir())
    write_site(folder, engine, package / "dist", [3], About())  # an earlier page is replaced
    assert not (folder / "encoder-7.onnx").exists()
    (folder / "index.html").write_text("mine")
    with pytest.raises(NotOursError, match="was changed"):
        write_site(folder, engine, package / "dist", [3], About())


def test_it_names_no_other_host():
    for path in PAGE.iterdir():
        if path.is_file():
            assert not re.search(r"\w://|['\"`(]//", path.read_text(encoding="utf-8")), path


@pytest.mark.slow
def test_a_folder_with_files_of_somebody_is_refused_before_anything_is_loaded(package, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "photo.jpg").write_text("mine")
    done = vlcap("export", "--web", tmp_path / "photos", "--model", "no such captioner", "--runtime", package)
    assert done.returncode == 1
    assert f"was not written by vlcap as its {KIND} folder (it holds photo.jpg)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = vlcap("export", tmp_path / "other", "--runtime", package)
    assert done.returncode == 2 and "needs --web" in done.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generation": {"max_new_tokens": 9, "do_sample": True}}, "greedy and beam search only"),
        ({"generation": {"max_new_tokens": 9, "no_repeat_ngram_size": 2}}, "greedy and beam search only"),
        ({"interpolation": "nearest"}, "does not support its preprocessing"),
        ({"frames": 8}, "reads clips of videos"),
    ],
)
def test_what_the_page_cannot_follow_is_refused(engine, monkeypatch, changes, said):
    facts = engine.facts
    if "interpolation" in changes:
        changes = {"pixels": replace(facts.pixels, **changes)}
    monkeypatch.setattr(engine, "facts", replace(facts, **changes))
    with pytest.raises(CaptionerError, match=said):
        check_engine(engine, [3])


def test_a_budget_without_a_graph_is_refused(engine):
    with pytest.raises(CaptionerError, match="exported for budgets 3, 5, 7, not 4"):
        check_engine(engine, [4])
