"""ONNX Runtime does what PyTorch does, without PyTorch; which engine is chosen; the cache of exported graphs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tests.support import drawings
from vlcap import auto_budget
from vlcap.auto_budget import AutoBudget
from vlcap.batches import work_on
from vlcap.captioner import BUNDLED, Captioner, CaptionerError
from vlcap.data.images import PixelConfig, load_image
from vlcap.engines import choose, onnx
from vlcap.engines.onnx import OnnxEngine, idle_cores
from vlcap.export import cache
from vlcap.export.graphs import export_graphs
from vlcap.files.writing import NotOursError
from vlcap.model.search import Search

ROOT = Path(__file__).parents[2]
WITHOUT_TORCH = """
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__")
finally:
    loaded = {"torch", "transformers", "timm", "ray"} & set(sys.modules)
    assert not loaded, loaded
"""


def run_without_torch(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "VLCAP_ENGINE"} | environment,
    )


@pytest.fixture(scope="module")
def graphs(captioner_folder, graphs_cache):
    """The small captioner's graphs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLCAP_CACHE", str(graphs_cache))
        return cache.place_of(captioner_folder, int8=False, budget=None)


@pytest.fixture(scope="module")
def quick(graphs):
    return Captioner(OnnxEngine(graphs, threads=1))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(64, 48), (201, 333), (640, 480), (97, 96), (50, 300), (1200, 900)]):
        drawings.draw(number, size).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 1},
        {"num_beams": 1, "repetition_penalty": 1.8},
        {"num_beams": 2, "length_penalty": 0.0},
        {"num_beams": 3, "early_stopping": True},
        {"num_beams": 4, "min_new_tokens": 9, "length_penalty": 0.5},
        {"num_beams": 5, "repetition_penalty": 1.3, "early_stopping": "never"},
        {"max_new_tokens": 1},
    ],
    ids=str,
)
def test_both_engines_write_the_same(captioner, quick, photos, settings):
    pixels = captioner.preprocess([*photos, *map(drawings.draw, range(10, 20))])
    for budget in captioner.budgets:
        expected = captioner.caption_pixels(pixels, budget, **settings)
        found = quick.caption_pixels(pixels, budget, **settings)
        assert [each.ids for each in found] == [each.ids for each in expected]
        assert [each.text for each in found] == [each.text for each in expected]
        for ours, theirs in zip(found, expected, strict=True):
            assert np.allclose(ours.logprobs, theirs.logprobs, atol=1e-3)
        alone = [quick.caption_pixels(pixels[i : i + 1], budget, **settings)[0].ids for i in range(len(pixels))]
        assert alone == [each.ids for each in expected]


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_batches_side_by_side(quick, graphs, photos, count):
    """Three lanes: the captions of one batch at a time, in the order of the batches."""
    lanes = Captioner(OnnxEngine(graphs, threads=3))
    batches = [quick.preprocess(map(drawings.draw, range(i, i + 1 + i % 3))) for i in range(count)]
    expected = [[each.ids for each in quick.caption_pixels(pixels)] for pixels in batches]
    assert [[each.ids for each in batch] for batch in lanes.caption_batches(batches)] == expected
    if count > 2:
        rule = AutoBudget((2, 3), threshold=-1e-9)  # no caption is so sure: all end at the second budget
        found = [[each.budget for each in batch] for batch in auto_budget.caption_batches(lanes, batches, rule)]
        assert found == [[3] * len(pixels) for pixels in batches]


def test_a_lane_that_fails_says_so():
    """No later batch is begun, and the error is the batch's own."""
    begun = []

    def work(lane, number):
        begun.append(number)
        if number == 3:
            raise CaptionerError("the third")
        return number

    engine = SimpleNamespace(lanes=2, lane=lambda: None)
    found = []
    with pytest.raises(CaptionerError, match="the third"):
        for number in work_on(engine, range(20), work):
            found.append(number)
    assert found == [0, 1, 2] and max(begun) < 8


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_log_probabilities_are_the_decoders(captioner, quick, photos, beams):
    """Against one pass over the finished caption, as in training. A penalty moves the search, and not these values."""
    pixels = captioner.preprocess(photos[:3])
    for each, photo in zip(quick.caption_pixels(pixels, num_beams=beams, repetition_penalty=1.2), pixels, strict=True):
        ended = len(each.logprobs) > len(each.ids)
        pieces = torch.tensor([[1, *each.ids, *([1] if ended else [])]])
        with torch.inference_mode():
            logits = captioner.model(
                pixel_values=captioner.engine.normalize(photo[None]), decoder_input_ids=pieces[:, :-1]
            ).logits
        expected = logits.log_softmax(-1).gather(-1, pieces[:, 1:, None])[0, :, 0]
        assert np.allclose(each.logprobs, expected, atol=1e-3)
        assert each.score == pytest.approx(float(expected.mean()), abs=1e-3)


@pytest.mark.slow
def test_attention_is_the_same(captioner, quick, photos):
    pixels = captioner.preprocess(photos[:1])
    [caption] = captioner.caption_pixels(pixels, 3)
    expected, found = (each.engine.attention(pixels, 3, caption.ids) for each in (captioner, quick))
    assert found.grid == expected.grid and found.read.shape == (len(caption.ids), 9)
    assert np.allclose(found.gathered, expected.gathered, atol=1e-5)
    assert np.allclose(found.read, expected.read, atol=1e-4)
    assert quick.engine.attention(pixels, 3, []).read.shape == (0, 9)


@pytest.mark.slow
def test_facts_come_along(captioner, quick):
    for name in ("pixels", "budgets", "budget", "parameters", "longest", "gathers", "has_choice", "grid"):
        assert getattr(quick.facts, name) == getattr(captioner.facts, name), name
    assert quick.generation(num_beams=7) == captioner.generation(num_beams=7)
    assert [quick.engine.gflops(side) for side in quick.budgets] == pytest.approx(
        [captioner.engine.gflops(side) for side in quick.budgets]
    )
    with pytest.raises(CaptionerError, match="engine='pytorch'"):
        _ = quick.model


@pytest.mark.slow
def test_streaming_ends_in_the_caption(captioner, quick, photos):
    pixels = captioner.preprocess(photos[:1])
    *steps, last = quick.stream(pixels, num_beams=3)
    [expected] = captioner.caption_pixels(pixels, num_beams=3)
    assert last.text == expected.text and last.score == pytest.approx(expected.score, abs=1e-3)
    assert all(len(step.ids) <= len(expected.ids) + 1 for step in steps)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.6}, {"temperature": 2.0, "top_k": 9, "top_p": 0.4}]
)
def test_samples_are_drawn_from_hugging_faces_distribution(settings):
    search = Search(5, do_sample=True, **{"top_k": 0, **settings})
    warpers = LogitsProcessorList()
    if "temperature" in settings:
        warpers.append(TemperatureLogitsWarper(settings["temperature"]))
    if "top_k" in settings:
        warpers.append(TopKLogitsWarper(settings["top_k"]))
    if "top_p" in settings:
        warpers.append(TopPLogitsWarper(settings["top_p"]))
    scores = torch.randn(1, 40, generator=torch.Generator().manual_seed(3)) * 2
    expected = warpers(None, scores).softmax(-1)[0].numpy()
    seen = np.zeros(40)

    class Recorder:
        def choice(self, pieces, p):
            seen[pieces] = p
            return pieces[0]

    search.draw(scores[0].numpy(), Recorder())
    assert np.allclose(seen, expected, atol=1e-6)


@pytest.mark.slow
def test_samples_differ_and_other_searches_are_refused(quick, photos):
    tokens = quick.encode(quick.preprocess(photos[:1]))
    drawn = {quick.decode_ids(tokens, do_sample=True, num_beams=1, temperature=3.0, top_k=0)[0] for _ in range(5)}
    assert len(drawn) > 1
    with pytest.raises(CaptionerError, match="no_repeat_ngram_size=2"):
        quick.decode(tokens, no_repeat_ngram_size=2)
    with pytest.raises(CaptionerError, match="budgets 2, 3, not 4"):
        quick.encode(quick.preprocess(photos[:1]), 4)


@pytest.mark.slow
def test_eight_bits_change_little(captioner, quick, photos, tmp_path):
    export_graphs(captioner.engine, tmp_path, [3], int8=True)
    small = Captioner(OnnxEngine(tmp_path, threads=1))
    pixels = quick.preprocess(photos)
    whole, rounded = quick.encode(pixels, 3), small.encode(pixels, 3)
    assert 0 < np.abs(rounded - whole).mean() < 0.1 * np.abs(whole).mean()
    assert len(small.caption_pixels(pixels, 3)) == len(photos)


@pytest.mark.parametrize(
    "crop",
    [
        {"crop_mode": "squash"},
        {"crop_mode": "squash", "crop_pct": 0.9},
        {"crop_mode": "center"},
        {"crop_mode": "center", "crop_pct": 0.875, "interpolation": "bilinear"},
        {"crop_mode": "border"},
    ],
)
def test_pixels_equal_timms(photos, crop):
    pixels = PixelConfig(size=96, mean=(0.5,) * 3, std=(0.5,) * 3, **crop)
    for photo in photos:
        assert np.array_equal(pixels.cut(load_image(photo)), pixels.eval_transform()(load_image(photo)).numpy())


# Exporting


@pytest.mark.slow
def test_an_export_runs_without_torch(captioner, graphs, photos):
    said = run_without_torch("vlcap.exported", graphs, *photos)
    assert said.returncode == 0, said.stderr
    found = [line.split(": ", 1)[1] for line in said.stdout.splitlines()]
    assert found == captioner.caption(photos)  # from its own budget


@pytest.mark.parametrize("budget", [0, 7, 100])
def test_a_budget_beyond_the_grid_is_one_line(captioner_folder, tmp_path, monkeypatch, capfd, budget):
    monkeypatch.setenv("VLCAP_CACHE", str(tmp_path))
    with pytest.raises(CaptionerError, match=f"budget {budget} does not fit.*from 1 to 6") as refused:
        Captioner.from_pretrained(captioner_folder, engine="onnx", budget=budget)
    assert "\n" not in str(refused.value) and capfd.readouterr().err == ""


def test_what_it_cannot_follow_is_refused(captioner, tmp_path, monkeypatch):
    monkeypatch.setattr(captioner.model.generation_config, "no_repeat_ngram_size", 2)
    with pytest.raises(CaptionerError, match="does not support its decoding settings"):
        export_graphs(captioner.engine, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_an_export_is_named(tmp_path):
    with pytest.raises(CaptionerError, match=r"export\.json: cannot be read"):
        OnnxEngine(tmp_path)
    (tmp_path / "export.json").write_text(json.dumps({"version": 1}))
    with pytest.raises(CaptionerError, match="another version"):
        OnnxEngine(tmp_path)


# Which engine


@pytest.mark.parametrize(
    ("name", "device", "variable", "expected"),
    [
        (None, "cpu", "", "onnx"),
        (None, "cuda", "", "pytorch"),
        (None, None, "", "onnx"),
        (None, None, "pytorch", "pytorch"),
        ("onnx", None, "pytorch", "onnx"),
    ],
)
def test_the_engine_suits_the_device(monkeypatch, name, device, variable, expected):
    monkeypatch.setenv("VLCAP_ENGINE", variable)
    monkeypatch.setattr(choose, "has_gpu", lambda: False)
    assert choose.choose(name, device) == expected


def test_an_unknown_engine_is_named():
    with pytest.raises(CaptionerError, match="'tensorrt': there are onnx, pytorch"):
        choose.choose("tensorrt")


@pytest.mark.parametrize(
    ("variable", "running", "own", "expected"),
    [("3", 1, 1, 3), ("", 1, 1, 2), ("", 2, 1, 1), ("", 9, 1, 1), ("", 2, 2, 2), ("", 3, 2, 1), ("", 1, 0, 2)],
)
def test_threads_leave_busy_cores_alone(monkeypatch, tmp_path, variable, running, own, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(onnx, "RUNNING", tmp_path / "loadavg")
    monkeypatch.setattr(onnx, "OWN_THREADS", tmp_path / "task")
    for thread in range(3):
        place = tmp_path / "task" / str(thread) / "stat"
        place.parent.mkdir(parents=True)
        place.write_text(f"{thread} (a) S (b)) {'R' if thread < own else 'S'} 1 2 3")
    assert idle_cores() == (2 if not variable else int(variable))
    (tmp_path / "loadavg").write_text(f"0.5 0.4 0.3 {running}/345 6789")
    assert idle_cores() == expected


@pytest.mark.slow
def test_the_command_needs_no_torch(photos):
    done = run_without_torch("app.cli", "caption", *photos, "--json")
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(each["image"]) for each in said] == photos
    assert all(each["caption"] and each["score"] < 0 for each in said)


@pytest.mark.slow
def test_onnx_runtime_reports_nothing(photos, tmp_path):
    """Its telemetry leaves an id of the device in the user's cache and a session's number in the temporary folder."""
    places = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    done = run_without_torch("app.cli", "caption", photos[0], "--engine", "onnx", **places)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*")) == []


# The cache


@pytest.fixture
def copied(captioner_folder, graphs_cache, tmp_path, monkeypatch):
    """A copy of the small captioner, with a cache that has its graphs."""
    monkeypatch.setenv("VLCAP_CACHE", str(graphs_cache))
    return Path(shutil.copytree(captioner_folder, tmp_path / "copied"))


@pytest.mark.slow
def test_graphs_are_exported_once(captioner, copied, graphs, graphs_cache, capfd, photos):
    before = {path: path.stat().st_mtime_ns for path in graphs.iterdir()}
    found = Captioner.from_pretrained(copied, engine="onnx")
    assert capfd.readouterr().err == ""
    assert found.engine.folder == graphs and graphs.is_relative_to(graphs_cache)
    assert before == {path: path.stat().st_mtime_ns for path in graphs.iterdir()}
    assert found.caption(photos, budget=2) == captioner.caption(photos, budget=2)
    places = {cache.place_of(copied, int8, budget) for int8 in (False, True) for budget in (None, 2)}
    assert graphs in places and len(places) == 4
    settings = json.loads((copied / "generation_config.json").read_text())
    (copied / "generation_config.json").write_text(json.dumps(settings | {"num_beams": 2}))
    assert cache.place_of(copied, int8=False, budget=None) not in places


@pytest.mark.slow
def test_an_interrupted_export_leaves_nothing(copied, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("VLCAP_CACHE", str(tmp_path))

    def stop(engine, folder, **ignored):
        (folder / "encoder-2.onnx").write_text("the first of its files")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("vlcap.export.graphs.export_graphs", stop)
        with pytest.raises(KeyboardInterrupt):
            Captioner.from_pretrained(copied, engine="onnx", budget=2)
    assert "preparing" in capfd.readouterr().err
    assert not [path for path in (tmp_path / "graphs").iterdir() if path.suffix != ".lock"]


@pytest.mark.slow
def test_what_lies_in_the_caches_place_stays(copied, tmp_path, monkeypatch):
    monkeypatch.setenv("VLCAP_CACHE", str(tmp_path))
    place = cache.place_of(copied, int8=False, budget=2)
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    with pytest.raises(NotOursError, match=r"notes\.txt"):
        cache.onnx_engine(copied, bundled=False, budget=2)
    assert (place / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_graphs_in_a_captioner_folder_are_not_run(captioner, copied, photos):
    """A stranger may have put them there."""
    for name in ("export.json", "decoder.onnx", "encoder-3.onnx"):
        shutil.copy(BUNDLED / name, copied)
    found = Captioner.from_pretrained(copied, engine="onnx")
    assert not found.engine.folder.is_relative_to(copied)
    assert found.caption(photos, budget=2) == captioner.caption(photos, budget=2)
