"""Model folders that a stranger made: nothing in them is run, and they take no more memory than their weights."""

import json
import pickle
import resource
import shutil
from pathlib import Path

import pytest

from vlcap.captioner import Captioner, CaptionerError
from vlcap.model.encoder import Encoder
from vlcap.model.folder import ModelFolderError


class Harm:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def folder(captioner_folder, tmp_path) -> Path:
    return Path(shutil.copytree(captioner_folder, tmp_path / "strange"))


def change(folder: Path, part: str | None, **settings) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config).update(settings)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_a_pickle_is_refused_and_not_read(folder, tmp_path, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    with pytest.raises(CaptionerError, match=f"no model.safetensors in it, only {name}, a pickle, which"):
        Captioner.from_pretrained(folder)
    assert not (tmp_path / "harm").exists()


def test_code_that_came_along_is_not_run(folder, tmp_path):
    """The code is named wherever Hugging Face would look for it."""
    (folder / "code.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\nclass Model: pass\n")
    named = {"auto_map": {"AutoConfig": "code.Model", "AutoModel": "code.Model", "AutoTokenizer": ["code.Model", None]}}
    for part in (None, "encoder", "decoder"):
        change(folder, part, **named, attn_implementation="someone/kernel", custom_generate="code")
    for name in ("tokenizer_config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | (named if name[0] == "t" else {})))
    assert Captioner.from_pretrained(folder).budgets == [2, 3]
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        ("decoder", {"n_embd": 10**6, "n_layer": 10**6}),
        ("decoder", {"n_embd": 10**6, "n_head": 1}),
        ("decoder", {"vocab_size": 10**9}),
        ("decoder", {"n_layer": 10**9}),
        ("decoder", {"n_positions": 10**12}),
        ("decoder", {"n_embd": 10**400}),
        ("decoder", {"n_layer": 0}),
        ("decoder", {"n_head": -1}),
        ("encoder", {"architecture": "vit_giant_patch14_224", "model_args": {"num_classes": 0}}),
        ("encoder", {"model_args": {"embed_dim": 2**20, "depth": 2, "num_heads": 2}}),
        ("encoder", {"model_args": {"img_size": 8 * 10**6}}),
        (
            "encoder",
            {"architecture": "lookupvivit_test_patch8x2_48", "model_args": {"frames": 10**6, "tubelet": 10**6}},
        ),
    ],
)
@pytest.mark.slow
def test_a_config_that_asks_for_too_many_weights_is_refused_before_it_gets_them(folder, part, settings):
    change(folder, part, **settings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CaptionerError, match=r"no captioner can be loaded from .*strange: "):
        Captioner.from_pretrained(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize(
    ("architecture", "model_args"),
    [
        ("hf-hub:someone/model", {}),
        ("local-dir:/etc", {}),
        ("resnet18", {}),
        ("vit_tiny_patch16_224", {"pretrained": True}),
        ("lookupvit_test_patch8_48", {"checkpoint_path": "/etc/passwd"}),
        ("lookupvit_test_patch8_48", {"pretrained_cfg": {"file": "weights.bin"}}),
    ],
)
def test_an_encoder_that_would_be_fetched_or_opened_is_refused(folder, architecture, model_args):
    change(folder, "encoder", architecture=architecture, model_args=model_args)
    with pytest.raises(CaptionerError, match=r"strange: .*(not a known architecture|may not have|describes no model)"):
        Captioner.from_pretrained(folder)


def test_weights_of_another_shape_are_named(folder):
    change(folder, "decoder", n_positions=13)
    with pytest.raises(CaptionerError, match=r"wpe.weight is \(13, 48\) by config.json and \(12, 48\) in model.safe"):
        Captioner.from_pretrained(folder)


def test_a_tokenizer_that_makes_its_library_panic(folder):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(CaptionerError, match=r"strange: tokenizer.json is damaged"):
        Captioner.from_pretrained(folder)


def test_a_tokenizer_that_would_count_for_ever(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra_ids": 2**63}))
    assert Captioner.from_pretrained(folder).budgets == [2, 3]  # ours have none, so the number is not read


def test_an_encoder_of_a_stranger(tmp_path):
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(tmp_path / "encoder")
    assert Encoder.load(tmp_path / "encoder").config.budgets == [2, 3]
    change(tmp_path / "encoder", None, hidden_size=65)
    with pytest.raises(ModelFolderError, match=r"encoder: config.json describes no model .*hidden_size is 65"):
        Encoder.load(tmp_path / "encoder")
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelFolderError, match=r"model.safetensors is damaged"):
        Encoder.load(tmp_path / "encoder")


@pytest.mark.parametrize(
    ("pieces", "length", "said"),
    [(4, 3000, "a piece of 3,000 letters"), (3000, 500, "1,50.,... letters in all pieces")],
)
def test_a_tokenizer_of_long_pieces(folder, pieces, length, said):
    """D7: the library would take about 400 bytes for each letter. It is refused before it is built."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"] += [[f"{number:04}{'x' * (length - 4)}", -1.0] for number in range(pieces)]
    path.write_text(json.dumps(tokenizer))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CaptionerError, match=said):
        Captioner.from_pretrained(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # kilobytes
