"""Decoders of the GPT-2 family from elsewhere: the same logits as before they were taken in, and what is refused."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.gpt2_folder import END, TEXTS, write_gpt2
from vlcap.errors import CaptionerError
from vlcap.model.folder import decoder_config
from vlcap.model.pretrained_decoder import load_pretrained
from vlcap.model.tokenizer import EOS, PAD, START, UNK

KINDS = {  # arguments of `write_gpt2`
    "gpt2": {},
    "other settings": {"activation_function": "relu", "n_inner": 48, "layer_norm_epsilon": 1e-3},
    "scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    "not scaled": {"scale_attn_weights": False},
    "head of its own": {"tie_word_embeddings": False},
    "special pieces": {"specials": ("</s>", "<s>", "[PAD]", "<unk>"), "begin": "<s>", "named": {"pad_token": "[PAD]"}},
    "rows without pieces": {"vocab_size": 448},
}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    return folder, *write_gpt2(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_original_ones(kind, tmp_path):
    original, its_tokenizer = write_gpt2(tmp_path, **KINDS[kind])
    begin = KINDS[kind].get("begin", END)
    decoder, tokenizer = load_pretrained(tmp_path, max_length=20)
    decoder.eval()
    shared = [each for each in tokenizer.get_vocab() if each in its_tokenizer.get_vocab()]
    ours = torch.tensor(tokenizer.convert_tokens_to_ids(shared))
    theirs = torch.tensor(its_tokenizer.convert_tokens_to_ids(shared))
    written = torch.tensor([each not in (PAD, UNK) for each in ours.tolist()])
    assert len(shared) == len(its_tokenizer) and tokenizer.convert_ids_to_tokens(EOS) == its_tokenizer.eos_token
    for text in [*TEXTS[:4], TEXTS[-1]]:
        ids = [START, *tokenizer(text)["input_ids"][:-1]][:20]
        before = its_tokenizer.convert_tokens_to_ids([begin, *its_tokenizer.tokenize(text)][:20])
        with torch.inference_mode():
            expected = original(torch.tensor([before])).logits[0][:, theirs[written]]
            logits = decoder(torch.tensor([ids])).logits[0]
        assert torch.allclose(logits[:, ours[written]], expected, rtol=1e-4, atol=1e-4 * expected.abs().max())
        unlikely = logits.softmax(dim=-1)[:, [PAD, UNK]]
        assert (unlikely <= 1 / (logits.shape[-1] - 2) + 1e-6).all()


def test_it_is_like_a_decoder_of_our_own(gpt2):
    decoder, tokenizer = load_pretrained(gpt2[0], max_length=12)
    config = decoder.config
    assert (config.n_positions, config.vocab_size, config.add_cross_attention) == (12, len(tokenizer), True)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (START, EOS, PAD)
    assert decoder.lm_head.weight is decoder.transformer.wte.weight
    assert config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx


def test_cross_attention_of_its_own_is_kept(tmp_path):
    original, _ = write_gpt2(tmp_path, add_cross_attention=True, is_decoder=True)
    decoder, _ = load_pretrained(tmp_path, max_length=12)
    for name in ("q_attn.weight", "c_attn.weight", "c_proj.bias"):
        expected = original.transformer.h[1].crossattention.get_parameter(name)
        assert torch.equal(decoder.transformer.h[1].crossattention.get_parameter(name), expected)


def test_names_without_their_first_part(gpt2, tmp_path):
    """As in the file of gpt2 on the hub, which has masks of the attention as well."""
    folder = shutil.copytree(gpt2[0], tmp_path / "gpt2")
    weights = {
        name.removeprefix("transformer."): each for name, each in load_file(folder / "model.safetensors").items()
    }
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 24, 24).tril() for layer in range(2)}
    save_file(weights | masks, folder / "model.safetensors", metadata={"format": "pt"})
    torch.manual_seed(0)
    again = load_pretrained(folder, 12)[0].state_dict()
    torch.manual_seed(0)
    for name, weight in load_pretrained(gpt2[0], 12)[0].state_dict().items():
        assert torch.equal(again[name], weight), name


def test_another_family_is_refused(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(CaptionerError, match=r"not a GPT-2 \(model_type 'llama'\): .*gpt2, distilgpt2") as error:
        load_pretrained(tmp_path, 12)
    assert "\n" not in str(error.value)


def change(folder, name="config.json", **values):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"n_positions": 10}, "10 positions, fewer than max_length 12"),
        ({"vocab_size": 300}, r"a piece with the id \d+, its config 300 ids"),
        ({"n_embd": 2**20}, "by config.json"),
        ({"n_layer": 10**9}, "layers"),
        ({"n_inner": -4}, "n_inner is -4"),
        ({"activation_function": "../../code"}, "activation_function is"),
        ({"n_head": 5}, "divisible"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(gpt2, tmp_path, values, said):
    folder = shutil.copytree(gpt2[0], tmp_path / "gpt2")
    change(folder, **values)
    with pytest.raises(CaptionerError, match=f"no pretrained decoder can be loaded from .*{said}"):
        load_pretrained(folder, 12)


def test_a_vocabulary_without_an_end_is_refused(gpt2, tmp_path):
    folder = shutil.copytree(gpt2[0], tmp_path / "gpt2")
    content = json.loads((folder / "tokenizer.json").read_text())
    for entry in content["added_tokens"]:
        entry["content"] = "<other>"
    (folder / "tokenizer.json").write_text(json.dumps(content))
    change(folder, eos_token_id=50256, bos_token_id=50256)
    with pytest.raises(CaptionerError, match="which piece ends a text"):
        load_pretrained(folder, 12)


def test_a_pickle_is_refused(gpt2, tmp_path):
    folder = shutil.copytree(gpt2[0], tmp_path / "gpt2")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(1))
    with pytest.raises(CaptionerError, match=r"only pytorch_model.bin, a pickle, which could run code"):
        load_pretrained(folder, 12)


def test_a_name_that_is_nowhere():
    with pytest.raises(CaptionerError, match=r"no pretrained decoder can be loaded from nobody/nothing: "):
        load_pretrained("nobody/nothing", 12)


def test_a_captioners_activation_is_checked_too():
    with pytest.raises(ValueError, match="activation_function is 'nonsense'"):
        decoder_config({"model_type": "gpt2", "activation_function": "nonsense"})
