"""Captions by ONNX Runtime against PyTorch's, and without PyTorch."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import drawings
import numpy as np
import pytest

from vlcap.captioner import Captioner, CaptionerError
from vlcap.export import export_onnx
from vlcap.images import PixelConfig, load_image

ROOT = Path(__file__).parents[1]
RUN = """
import runpy, sys
sys.argv = ["onnx_caption.py", *sys.argv[1:]]
runpy.run_path("docs/onnx_caption.py", run_name="__main__")
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""


@pytest.fixture(scope="module")
def captioner():
    return Captioner.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def exported(captioner, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    export_onnx(captioner, folder, budget=3)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(64, 48), (201, 333), (640, 480), (97, 96), (50, 300), (1200, 900)]):
        drawings.draw(number, size).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("changes", [{}, {"num_beams": 1}, {"num_beams": 3, "length_penalty": 0.5}])
def test_captions_equal_the_originals(captioner, exported, photos, changes):
    settings = json.loads((exported / "export.json").read_text())
    changed = {**settings, "search": {**settings["search"], **changes}}
    (exported / "export.json").write_text(json.dumps(changed))
    try:
        said = subprocess.run(
            [sys.executable, "-c", RUN, str(exported), *map(str, photos)], cwd=ROOT, capture_output=True, text=True)
    finally:
        (exported / "export.json").write_text(json.dumps(settings))
    assert said.returncode == 0, said.stderr
    found = [line.split(": ", 1)[1] for line in said.stdout.splitlines()]
    assert found == captioner.caption(photos, budget=3, **changes)


def test_what_it_cannot_follow_is_refused(captioner, tmp_path, monkeypatch):
    monkeypatch.setattr(captioner.model.generation_config, "no_repeat_ngram_size", 2)
    with pytest.raises(CaptionerError, match="more than greedy or beam search"):
        export_onnx(captioner, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(captioner, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(CaptionerError, match=r"pip install 'vlcap\[onnx\]'"):
        export_onnx(captioner, tmp_path / "out")


@pytest.mark.parametrize("crop", [
    {"crop_mode": "squash"}, {"crop_mode": "squash", "crop_pct": 0.9}, {"crop_mode": "center"},
    {"crop_mode": "center", "crop_pct": 0.875, "interpolation": "bilinear"}])
def test_pixels_equal_the_originals(photos, crop):
    pixels = PixelConfig(size=96, mean=(0.5,) * 3, std=(0.5,) * 3, **crop)
    example = runpy.run_path(str(ROOT / "docs" / "onnx_caption.py"))["OnnxCaptioner"]
    ours = example.__new__(example)
    ours.settings = {"pixels": pixels.to_dict()}
    for photo in photos:
        assert np.array_equal(ours.read(photo), pixels.eval_transform()(load_image(photo)).numpy())
