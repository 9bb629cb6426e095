"""Captions by ONNX Runtime equal PyTorch's, and need no PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from tests.support import drawings
from vlcap.captioner import Captioner, CaptionerError
from vlcap.data.images import PixelConfig, load_image
from vlcap.export.onnx_captioner import OnnxCaptioner
from vlcap.export.onnx_export import export_onnx
from vlcap.model.tokenizer import START

ROOT = Path(__file__).parents[2]
RUN = """
import runpy, sys
runpy.run_module("vlcap.export.onnx_captioner", run_name="__main__")
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


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"num_beams": 1}, {"num_beams": 3, "length_penalty": 0.5}])
def test_captions_equal_the_originals(captioner, exported, photos, changes):
    settings = json.loads((exported / "export.json").read_text())
    changed = {**settings, "search": {**settings["search"], **changes}}
    (exported / "export.json").write_text(json.dumps(changed))
    try:
        said = subprocess.run(
            [sys.executable, "-c", RUN, str(exported), *map(str, photos)], cwd=ROOT, capture_output=True, text=True
        )
    finally:
        (exported / "export.json").write_text(json.dumps(settings))
    assert said.returncode == 0, said.stderr
    found = [line.split(": ", 1)[1] for line in said.stdout.splitlines()]
    assert found == captioner.caption(photos, budget=3, **changes)


@pytest.mark.slow
def test_int8_writes_nearly_the_same(captioner, exported, photos, tmp_path):
    export_onnx(captioner, tmp_path, budget=3, int8=True)
    # Convolutions and the embedding table stay in float.
    kept = 4 * (
        sum(module.weight.numel() for module in captioner.model.modules() if isinstance(module, nn.Conv2d))
        + captioner.model.decoder.transformer.wte.weight.numel()
    )
    whole, small = (sum(path.stat().st_size for path in folder.glob("*.onnx")) for folder in (exported, tmp_path))
    assert small - kept < 0.4 * (whole - kept)
    assert not [*tmp_path.glob("*.float.onnx")]
    whole, small = OnnxCaptioner(exported), OnnxCaptioner(tmp_path)
    pixels = np.stack([whole.read(photo) for photo in photos])
    read, rounded = whole.encode(pixels), small.encode(pixels)
    assert 0 < np.abs(rounded - read).mean() < 0.1 * np.abs(read).mean()
    first = {"pieces": np.full(len(photos), START), "past": read[..., :0, :]}
    logits, close = (
        each.decoder.run(None, {**first, "photo": photo})[0] for each, photo in ((whole, read), (small, rounded))
    )
    assert np.corrcoef(logits.ravel(), close.ravel())[0, 1] > 0.99
    assert all(small.caption(photo) for photo in photos)
    # The captioner and the earlier export are unchanged.
    assert captioner.caption(photos, budget=3) == [whole.caption(photo) for photo in photos]


@pytest.mark.slow
def test_what_it_cannot_follow_is_refused(captioner, tmp_path, monkeypatch):
    monkeypatch.setattr(captioner.model.generation_config, "no_repeat_ngram_size", 2)
    with pytest.raises(CaptionerError, match="settings that ONNX export does not support"):
        export_onnx(captioner, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(captioner, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(CaptionerError, match=r"pip install 'vlcap\[onnx\]'"):
        export_onnx(captioner, tmp_path / "out")


@pytest.mark.parametrize(
    "crop",
    [
        {"crop_mode": "squash"},
        {"crop_mode": "squash", "crop_pct": 0.9},
        {"crop_mode": "center"},
        {"crop_mode": "center", "crop_pct": 0.875, "interpolation": "bilinear"},
    ],
)
def test_pixels_equal_the_originals(photos, crop):
    pixels = PixelConfig(size=96, mean=(0.5,) * 3, std=(0.5,) * 3, **crop)
    ours = OnnxCaptioner.__new__(OnnxCaptioner)
    ours.settings = {"pixels": pixels.to_dict()}
    for photo in photos:
        assert np.array_equal(ours.read(photo), pixels.eval_transform()(load_image(photo)).numpy())


def test_a_folder_without_an_export_is_named(tmp_path):
    with pytest.raises(CaptionerError, match=r"export\.json: cannot be read"):
        OnnxCaptioner(tmp_path)
