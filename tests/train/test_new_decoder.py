"""Captioners whose decoder was pretrained elsewhere: training, captions of both engines, adapters, resumed runs."""

import copy

import onnx
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers.modeling_outputs import BaseModelOutput

from tests.support import drawings
from tests.support.gpt2_folder import write_gpt2
from train.adapters import ADAPTED, freeze_decoder, merged
from train.captioner import CaptionerRecipe, Captioning, train_captioner
from train.loop import TrainingError
from train.new_decoder import is_pretrained
from vlcap.attention import words_of
from vlcap.captioner import Captioner
from vlcap.engines.onnx import OnnxEngine
from vlcap.errors import CaptionerError
from vlcap.export import graphs
from vlcap.export.site import check_engine
from vlcap.model.build import build_model
from vlcap.model.decoding import keys_and_values
from vlcap.model.encoder import Encoder
from vlcap.model.loading import load_decoder
from vlcap.model.tokenizer import EOS, PAD, START, train_tokenizer

pytestmark = pytest.mark.usefixtures("quick_curves")

QUICK = ["workers=0", "cider=false", "batch_size=8", "limit=16", "max_length=14", "steps=2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An untrained encoder, and a pretrained decoder."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(folder / "encoder")
    write_gpt2(folder / "gpt2", n_layer=1)  # exporting more layers takes longer
    return folder


def recipe(folders, *settings: str) -> CaptionerRecipe:
    return CaptionerRecipe.load(
        None, [f"encoder={folders / 'encoder'}", f"decoder={folders / 'gpt2'}", *QUICK, *settings]
    )


@pytest.fixture(scope="module")
def captioner(folders, captioned_folder, tmp_path_factory, quick_curves_in_module):
    """A captioner that a run of two steps wrote, with captions that depend on the photo."""
    out = tmp_path_factory.mktemp("run")
    train_captioner(recipe(folders), [str(captioned_folder)], out)
    made = Captioner.from_pretrained(out / "captioner", engine="pytorch")
    torch.manual_seed(0)
    for name, weight in made.model.decoder.named_parameters():
        if "crossattention" in name:
            weight.data.add_(torch.randn_like(weight))
    return made


def test_it_starts_from_the_pretrained_weights(folders, captioned_folder, tmp_path):
    task = Captioning(recipe(folders, "dropout=0.2"), [str(captioned_folder)], tmp_path)
    pretrained = load_file(folders / "gpt2" / "model.safetensors")
    own = task.model.decoder.state_dict()
    assert torch.equal(own["transformer.h.0.mlp.c_fc.weight"], pretrained["transformer.h.0.mlp.c_fc.weight"])
    assert task.max_length == own["transformer.wpe.weight"].shape[0] == 14
    assert task.model.decoder.config.resid_pdrop == 0.2
    assert all(weight.requires_grad for weight in task.model.decoder.parameters())
    [told] = {task.tokenizer.decode(task.train_set.pieces[0][0], skip_special_tokens=True)}
    assert told == "A red circle"  # its case is kept


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"num_beams": 1}, {"num_beams": 3}, {"num_beams": 2, "length_penalty": 0.5}], ids=str
)
def test_captions_are_those_of_hugging_face(captioner, settings):
    tokens = torch.randn(6, 9, 64, generator=torch.Generator().manual_seed(0))
    found = captioner.model.generate(encoder_outputs=BaseModelOutput(last_hidden_state=tokens.clone()), **settings)
    expected = [tuple(piece for piece in ids if piece not in (PAD, START, EOS)) for ids in found.tolist()]
    assert captioner.decode_ids(tokens, **settings) == expected and len(set(expected)) > 1


@pytest.mark.slow
def test_both_engines_write_the_same(captioner, tmp_path, monkeypatch):
    empty = onnx.helper.make_model(onnx.helper.make_graph([], "encoder", [], []))  # its export would take a minute
    monkeypatch.setattr(graphs, "_export_encoder", lambda engine, budget, path: onnx.save(empty, path))
    graphs.export_graphs(captioner.engine, tmp_path, [3])
    quick, model = Captioner(OnnxEngine(tmp_path, threads=1)), captioner.model
    tokens = torch.randn(6, 9, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        photo = keys_and_values(model.decoder, model.enc_to_dec_proj(tokens)).numpy()
    for settings in ({"num_beams": 1}, {"num_beams": 3}):
        expected = captioner.decode_ids(tokens, **settings)
        assert quick.decode_ids(photo, **settings) == expected
        assert [*map(quick.text, expected)] == [*map(captioner.text, expected)]
        assert [words_of(quick, ids) for ids in expected] == [words_of(captioner, ids) for ids in expected]
        assert not any("\n" in captioner.text(ids) for ids in expected) and len({*expected}) > 1
    check_engine(quick.engine, [3])  # the static page can run it too


def test_text_and_words_of_a_caption(captioner):
    text = "A café, 🙂 two men"
    ids = captioner.tokenizer(text)["input_ids"][:-1]
    assert captioner.text([START, *ids, EOS, PAD]) == text
    assert [word for word, _ in words_of(captioner, ids)] == text.split()


@pytest.mark.parametrize("rank", [0, 4])
def test_only_cross_attention_and_adapters_learn(folders, captioned_folder, tmp_path, rank):
    task = Captioning(recipe(folders, "freeze_decoder=true", f"lora_rank={rank}"), [str(captioned_folder)], tmp_path)
    batch = task.collate([task.train_set[i] for i in range(4)])
    task.loss(task.model, batch, None).mean.backward()
    learning = {name for name, weight in task.model.named_parameters() if weight.grad is not None}
    assert learning == {name for name, weight in task.model.named_parameters() if weight.requires_grad}
    assert {
        "crossattention" in name or "ln_cross_attn" in name or "lora_" in name
        for name in learning - {"enc_to_dec_proj.weight", "enc_to_dec_proj.bias"}
    } == {True}
    assert sum("crossattention" in name for name in learning) == 6
    assert sum("lora_" in name for name in learning) == (4 * 2 if rank else 0)


def test_merged_weights_are_pefts_own(folders, captioned_folder, tmp_path):
    task = Captioning(recipe(folders, "lora_rank=4"), [str(captioned_folder)], tmp_path)
    with torch.no_grad():
        for name, weight in task.model.named_parameters():
            if "lora_B" in name:  # zero at first
                weight.normal_(generator=torch.Generator().manual_seed(len(name)))
    plain = merged(task.model)
    assert plain is not task.model and plain.encoder is task.model.encoder and merged(plain) is plain
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=ADAPTED, fan_in_fan_out=True)
    pefts = get_peft_model(copy.deepcopy(plain.decoder), settings)
    pefts.base_model.model.load_state_dict(task.model.decoder.state_dict())
    expected = pefts.merge_and_unload().state_dict()
    assert expected.keys() == plain.decoder.state_dict().keys()
    for name, weight in plain.decoder.state_dict().items():
        assert torch.equal(weight, expected[name]), name
    ids, tokens = torch.tensor([[START, 50, 60]]), torch.randn(1, 9, 64)
    for model in (task.model, plain):
        model.eval()
    with torch.inference_mode():
        logits = [
            model(encoder_outputs=BaseModelOutput(last_hidden_state=tokens), decoder_input_ids=ids).logits
            for model in (task.model, plain)
        ]
    assert torch.allclose(*logits, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_a_run_with_adapters_resumes_exactly(folders, captioned_folder, tmp_path):
    """Its captioner folder has no adapters, and the same weights as without the interruption."""
    how = ("lora_rank=2", "schedule=constant", "vocab=used", "ema_decay=0.5")
    for steps in (2, 4):
        train_captioner(recipe(folders, *how, f"steps={steps}"), [str(captioned_folder)], tmp_path / "resumed")
    train_captioner(recipe(folders, *how, "steps=4"), [str(captioned_folder)], tmp_path / "whole")
    resumed, whole = (load_file(tmp_path / name / "captioner" / "model.safetensors") for name in ("resumed", "whole"))
    assert resumed.keys() == whole.keys() and not [name for name in whole if "lora" in name or "base_layer" in name]
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    made = Captioner.from_pretrained(tmp_path / "whole" / "captioner")
    assert made.caption([drawings.draw(0)]) and len(made.tokenizer) < 380


def test_without_peft_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    model = build_model(Encoder.create("lookupvit_test_patch8_48"), vocab_size=40, width=16, layers=1, heads=2)
    with pytest.raises(TrainingError, match=r"pip install 'vlcap\[lora\]'"):
        freeze_decoder(model.decoder, 4)


def test_what_names_a_pretrained_decoder(folders, tmp_path):
    assert is_pretrained("gpt2") and is_pretrained("microsoft/DialoGPT-small") and is_pretrained(str(folders / "gpt2"))
    assert not is_pretrained(None) and not is_pretrained("random") and not is_pretrained("runs/caption-text/decoder")
    train_tokenizer(drawings.captions(20), vocab_size=60).save_pretrained(tmp_path)
    assert not is_pretrained(str(tmp_path)) and not is_pretrained(str(folders / "encoder"))
    with pytest.raises(CaptionerError, match=r"no decoder can be loaded from .*not a GPT-2"):
        load_decoder(folders / "encoder")


def test_settings_follow_the_decoder(folders):
    load = CaptionerRecipe.load
    assert load(None, ["decoder=random"]) == load(None) and load(None).lowercase
    assert not load(None, ["decoder=gpt2"]).lowercase and load(None, ["decoder=gpt2", "lowercase=true"]).lowercase
    assert load(None, ["decoder=runs/caption-text/decoder", "lowercase=null"]).lowercase
    assert not recipe(folders).lowercase


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["lora_rank=4"], "lora_rank freezes the decoder"),
        (["freeze_decoder=true"], "freeze_decoder freezes the decoder"),
        (["vocab=used"], "vocab=used is for pretrained decoders"),
    ],
)
def test_settings_that_do_not_go_together(folders, captioned_folder, tmp_path, settings, said):
    asked = CaptionerRecipe.load(None, [f"encoder={folders / 'encoder'}", *QUICK, *settings])
    with pytest.raises(TrainingError, match=said):
        Captioning(asked, [str(captioned_folder)], tmp_path)
