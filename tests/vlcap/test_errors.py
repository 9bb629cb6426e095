"""Which errors a person can act on, and which are bugs."""

import pickle

import pytest
import torch

import encoders
from vlcap.data.captions import CaptionDataError
from vlcap.data.images import ImageError
from vlcap.data.pixels import PixelConfig, PixelConfigError
from vlcap.errors import CaptionerError, VlcapError, is_expected
from vlcap.files.json_file import JsonError, load_json
from vlcap.model.encoder import Encoder
from vlcap.model.folder import ModelFolderError

OURS = [CaptionDataError, CaptionerError, ImageError, JsonError, ModelFolderError, PixelConfigError]


@pytest.mark.parametrize("kind", [*OURS, encoders.EncoderError])
def test_ours_are_expected_and_survive_the_way_from_a_worker(kind):
    error = kind("a.jpg: no such file")
    assert is_expected(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), KeyError("x"), AssertionError("x")])
def test_those_of_libraries_are_bugs(error):
    assert not is_expected(error)


@pytest.mark.slow
def test_the_system_is_expected():
    assert is_expected(FileNotFoundError(2, "no such file", "a"))


@pytest.mark.slow
def test_settings_that_do_not_fit_are_expected():
    for make in (
        lambda: Encoder.create("vit_tiny_patch16_224").set_budgets([3]),
        lambda: Encoder.create("lookupvit_test_patch8_48").model.forward_tokens(torch.zeros(1, 3, 48, 48), budget=0),
        lambda: PixelConfig(size=0, mean=(0.5,) * 3, std=(0.5,) * 3),
        lambda: encoders.create_encoder("pit_ti_224"),
    ):
        with pytest.raises(Exception) as raised:
            make()
        assert is_expected(raised.value), repr(raised.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1,}', "line 1, column 9: not valid JSON"),
        (b"\xff\xfe\x00", "not a JSON text"),
        (b"[" * 100_000, "not a JSON text"),
        (b" " * 101, "too large, the limit is"),
        (None, "cannot be read"),
    ],
)
def test_json_that_cannot_be_read(tmp_path, content, said):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JsonError, match=said) as raised:
        load_json(path, max_bytes=100 if content == b" " * 101 else 10**6)
    assert str(path) in str(raised.value)
    with pytest.raises(VlcapError, match=r"^config\.json"):
        load_json(path, max_bytes=100 if content == b" " * 101 else 10**6, name="config.json", error=ModelFolderError)


def test_a_folder_or_a_pipe_is_no_json_file(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(JsonError, match="not a file"):
            load_json(path)
