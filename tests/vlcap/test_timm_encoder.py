"""timm:NAME and timm:FOLDER: whose weights are loaded, and what a stranger's folder cannot do."""

import json
import pickle
import shutil
import time

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from encoders.timm_encoders import known
from tests.support import frozen_models
from tests.vlcap.test_strangers import Harm
from vlcap.model.encoder import SETTINGS, Encoder
from vlcap.model.folder import ModelFolderError
from vlcap.model.timm_encoder import folder_of, make_encoder, names_timm, read_base


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """timm's folder of a CLIP-like model, and the model."""
    model = frozen_models.make("clip")
    return frozen_models.write(model, tmp_path_factory.mktemp("timm") / "clip"), model


@pytest.fixture
def folder(clip, tmp_path):
    return shutil.copytree(clip[0], tmp_path / "strange")


def change(folder, **settings):
    values = json.loads((folder / "config.json").read_text())
    for name, value in settings.items():
        values = {key: each for key, each in values.items() if key != name} | ({} if value is None else {name: value})
    (folder / "config.json").write_text(json.dumps(values))


def arguments(folder, **given):
    values = json.loads((folder / "config.json").read_text())
    change(folder, model_args=values["model_args"] | given)


def test_names(tmp_path):
    assert names_timm("timm:test_vit") and not names_timm("runs/a/encoder") and not names_timm(None)
    assert folder_of("timm:some/folder").parts == ("some", "folder") and folder_of("runs/a").parts == ("runs", "a")
    assert not folder_of("timm:test_vit").is_dir()  # a model, whatever folder has the same name
    assert known("vit_base_patch16_siglip_224.webli")
    with pytest.raises(ModelFolderError, match=r"timm:vit_bse_patch16_224: timm has no model .*; timm has .*vit_base"):
        read_base("timm:vit_bse_patch16_224")
    with pytest.raises(ModelFolderError, match="timm has no model of this name, and there is no such folder"):
        read_base("timm:hf-hub:someone/model")


@pytest.mark.slow
def test_weights_from_the_hub_are_timms(monkeypatch):
    """Without the network: what timm would have fetched is handed to it."""
    hub, asked = timm.create_model("test_vit").state_dict(), []

    def fetch(hub_id, **unused):
        asked.append(hub_id)
        return {name: weight.clone() for name, weight in hub.items()}

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fetch)
    for reduce in (None, "pool", "tome", "lookup"):
        encoder = make_encoder("timm:test_vit.r160_in1k", reduce)
        weights = encoder.model.trunk.model if reduce == "lookup" else encoder.model
        assert torch.equal(weights.blocks[2].attn.qkv.weight, hub["blocks.2.attn.qkv.weight"])
        assert encoder.pixels.size == 160 and encoder.config.classes == []
    assert asked == ["timm/test_vit.r160_in1k"] * 4


def test_without_the_network_there_is_one_line():
    with pytest.raises(ModelFolderError, match=r"timm:test_vit2: timm cannot load its .*weights .*timm:FOLDER"):
        read_base("timm:test_vit2")
    with pytest.raises(ModelFolderError, match="No pretrained weights exist"):
        read_base("timm:vit_mini_patch8_96")


@pytest.mark.slow
@pytest.mark.parametrize("reduce", [None, "pool", "tome", "evit", "lookup"])
def test_an_encoder_folder_keeps_it(clip, reduce, tmp_path):
    made = make_encoder(f"timm:{clip[0]}", reduce).eval()
    made.save_pretrained(tmp_path / "encoder")
    loaded = Encoder.load(tmp_path / "encoder").eval()
    for setting in SETTINGS:
        assert getattr(loaded.config, setting) == getattr(made.config, setting)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x).last_hidden_state, made(x).last_hidden_state)
    assert loaded.token_count(loaded.budget) == {None: 17}.get(reduce, 16)
    again = loaded.set_budgets([2, 3]) if reduce else loaded
    assert again.budget == (3 if reduce else 4)


@pytest.mark.slow
def test_half_precision_and_sides_in_a_list(folder):
    """As `timm` writes them after `set_input_size`, and as many publish their weights."""
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight.half() for name, weight in weights.items()}, folder / "model.safetensors")
    arguments(folder, img_size=[32, 32], act_layer="gelu", norm_layer=None)
    encoder = make_encoder(f"timm:{folder}", "pool")
    assert encoder.pixels.size == 32 and encoder.dtype == torch.float32
    torch.testing.assert_close(encoder.model.norm.weight, weights["norm.weight"], atol=1e-2, rtol=1e-2)


def test_pickles_and_code_are_left_alone(folder, tmp_path):
    (folder / "model.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\n")
    change(folder, auto_map={"AutoModel": "model.Model"}, custom_load=True)
    assert make_encoder(f"timm:{folder}").config.architecture == "vit_base_patch16_clip_224"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    with pytest.raises(ModelFolderError, match=r"no model.safetensors in it, only pytorch_model.bin, a pickle, which"):
        make_encoder(f"timm:{folder}")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"architecture": "hf-hub:someone/model"}, "'hf-hub:someone/model' is not a known architecture"),
        ({"architecture": "local-dir:/etc"}, "'local-dir:/etc' is not a known architecture"),
        ({"architecture": 7}, "7 is not a known architecture"),
        ({"architecture": None}, "names no architecture of timm"),
        ({"architecture": "resnet18"}, "describes no model that works|lacks .* weights"),
        ({"model_args": {}}, "lacks .* weights|by config.json and .* in model.safetensors"),
        ({"model_type": "vlcap-encoder"}, "no folder of timm but a 'vlcap-encoder': give it without timm:"),
        ({"model_args": [1]}, r"model_args is \[1\], not an object"),
        ({"model_args": {"pretrained": True}}, "model_args may not have pretrained"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "model_args may not have checkpoint_path"),
        ({"model_args": {"pretrained_cfg": {"file": "x"}}}, "model_args may not have pretrained_cfg"),
        ({"model_args": {"pruned": True}}, "model_args may not have pruned"),
        ({"model_args": {"depth": 10**9}}, "1000000000 layers, model.safetensors"),
        ({"model_args": {"in_chans": 1}}, "images of 1 channels, not RGB"),
        ({"model_args": {"img_size": [32, 48]}}, r"images of \[32, 48\] pixels, which are not square"),
        ({"model_args": {"nonsense": 1}}, "describes no model that works: .*nonsense"),
        ({"pretrained_cfg": []}, "describes no preprocessing"),
        ({"pretrained_cfg": {"std": [0, 0, 0]}}, "describes no preprocessing"),
        ({"pretrained_cfg": {"interpolation": "oracle"}}, "describes no preprocessing"),
        ({"pretrained_cfg": {"input_size": [1, 32, 32]}}, "describes no preprocessing: only square RGB"),
    ],
)
def test_a_folder_that_is_refused(folder, settings, said):
    change(folder, **settings)
    with pytest.raises(ModelFolderError, match=said) as found:
        make_encoder(f"timm:{folder}", "pool")
    assert str(folder) in str(found.value) and "\n" not in str(found.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {"trunk_args": {"pretrained": True}},
        {"trunk_args": {"checkpoint_path": "/etc/passwd"}},
        {"trunk_args": {"features_only": True}},
        {"trunk_args": {"trunk_args": {}}},
        {"trunk_args": "x"},
        {"trunk_args": {"depth": 10**9}},
        {"trunk": "hf-hub:someone/model"},
        {"trunk": "timm_lookup"},
        {"trunk": "swin_tiny_patch4_window7_224", "trunk_args": {"depths": [10**9]}},
        {"trunk_indices": [0, 1, 2]},
        {"trunk_args": {"embed_dim": 10**6}},
    ],
)
def test_the_model_under_blocks_obeys_the_same_rules(clip, given, tmp_path):
    make_encoder(f"timm:{clip[0]}", "lookup").save_pretrained(tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    config["model_args"] |= given
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config))
    start = time.process_time()
    with pytest.raises(ModelFolderError, match="no encoder can be loaded from"):
        Encoder.load(tmp_path / "encoder")
    assert time.process_time() - start < 60  # not for ever


@pytest.mark.slow
def test_a_model_of_endless_parts_is_given_up(clip, tmp_path, monkeypatch):
    """An argument that nobody thought of, in a model that anyone may register."""

    @timm.models.register_model
    def endless(pretrained=False, parts=1, **unused):
        return torch.nn.ModuleList(torch.nn.Identity() for _ in range(parts))

    make_encoder(f"timm:{clip[0]}", "pool").save_pretrained(tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    config |= {"architecture": "endless", "model_args": {"parts": 2**30}}
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match=r"has more than 1.... parts, model.safetensors .* weights"):
        Encoder.load(tmp_path / "encoder")
