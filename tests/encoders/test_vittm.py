"""ViTTM: its published costs, its heads and fusions by hand, what trains, and folders of an earlier version."""

import json

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from encoders import EncoderError, create_encoder
from encoders.cost import count_gflops, count_parameters
from encoders.read_write import CrossHead, Fusion, LatentHead, LinearHead
from encoders.vittm import ViTTM
from tests.support import drawings
from vlcap.captioner import Captioner
from vlcap.model.build import build_model
from vlcap.model.encoder import Encoder
from vlcap.model.folder import ModelFolderError
from vlcap.model.tokenizer import train_tokenizer

SMALL = {
    "img_size": 64,
    "patch_size": 8,
    "process_patch_size": 16,
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 3,
    "num_classes": 5,
}
VARIANTS = [
    {"process_init": "downsample"},
    {"process_init": "latent"},
    {"rw_head": "cross", "latent_ratio": 1.0},
    {"rw_head": "latent"},
    {"rw_heads": 1, "rw_proj": True},
    {"fusion": "add_erase"},
    {"fusion": "erase", "memory_mlp_ratio": 0.5},
    {"memory_mlp_ratio": 2.0},
]


def published_gmacs(encoder: nn.Module) -> float:
    """GMACs as fvcore counts them, which the paper uses.

    Fused attention is left out: the paper's ViT-B/16 counts 16.87. A layer norm counts five per element.
    """
    norms = [0]
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda _, given, out: norms.append(5 * out.numel()))
    macs = count_gflops(encoder) * 1e9 / 2
    width, depth = encoder.embed_dim, len(encoder.blocks)
    process = encoder.pos_embed.shape[1]
    macs -= depth * 2 * process**2 * width
    if isinstance(getattr(encoder, "read", [None])[0], CrossHead):
        memory, latent = encoder.memory_pos_embed.shape[1], encoder.read[0].q.out_features
        macs -= depth * 2 * process * memory * (latent + width)  # read and write, queries x keys and weights x values
    return (macs + sum(norms)) / 1e9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "name", "arguments", "gmacs"),
    [
        ("1 cross", "small", {"rw_head": "cross", "latent_ratio": 1.0}, 2.92),
        ("1 latent", "small", {"rw_head": "latent", "latent_ratio": 1.0}, 3.07),
        ("1 linear", "small", {"latent_ratio": 1.0}, 2.62),
        ("2 c = d/4, 5 B(32, 16)", "base", {}, 7.10),
        ("2 c = d/2", "base", {"latent_ratio": 0.5}, 8.04),
        ("2 c = d, 3 (49, 196)", "base", {"latent_ratio": 1.0}, 9.92),
        ("3 (16, 64)", "base", {"latent_ratio": 1.0, "process_patch_size": 56, "patch_size": 28}, 3.39),
        ("3 (16, 196)", "base", {"latent_ratio": 1.0, "process_patch_size": 56}, 6.37),
        ("3 (16, 256)", "base", {"latent_ratio": 1.0, "process_patch_size": 56, "patch_size": 14}, 7.72),
        ("3 (49, 64)", "base", {"latent_ratio": 1.0, "patch_size": 28}, 6.94),
        ("3 (49, 256)", "base", {"latent_ratio": 1.0, "patch_size": 14}, 11.27),
        ("3 (64, 64)", "base", {"latent_ratio": 1.0, "process_patch_size": 28, "patch_size": 28}, 8.56),
        ("3 (64, 196)", "base", {"latent_ratio": 1.0, "process_patch_size": 28}, 11.53),
        ("3 (64, 256)", "base", {"latent_ratio": 1.0, "process_patch_size": 28, "patch_size": 14}, 12.88),
        ("4 r = 0.5", "base", {"latent_ratio": 1.0, "memory_mlp_ratio": 0.5}, 11.31),
        ("4 r = 1", "base", {"latent_ratio": 1.0, "memory_mlp_ratio": 1.0}, 12.70),
        ("4 r = 2", "base", {"latent_ratio": 1.0, "memory_mlp_ratio": 2.0}, 15.47),
        ("5 B(28, 28)", "base", {"process_patch_size": 28, "patch_size": 28}, 7.08),
    ],
)
def test_published_costs(table, name, arguments, gmacs):
    """The paper's Tables 1 to 5. Tables 1, 3 and 4 fit c = d only."""
    with torch.device("meta"):
        encoder = create_encoder(f"vittm_{name}_patch16_224", num_classes=0, **arguments)
        assert published_gmacs(encoder) == pytest.approx(gmacs, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gmacs"), [("vit_base_patch16_224", 16.87), ("vit_base_patch32_224", 4.37)])
def test_the_papers_vit_is_counted_the_same_way(name, gmacs):
    with torch.device("meta"):
        encoder = create_encoder(name, num_classes=0)
        assert published_gmacs(encoder) == pytest.approx(gmacs, abs=0.006)


def by_hand(head, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """What each target receives, target by target and attention head by attention head."""
    source, target = head.norm_source(source), head.norm_target(target)
    q, k, v = head.q(target), head.k(source), head.v(source)
    wide, narrow = v.shape[-1] // head.num_heads, q.shape[-1] // head.num_heads
    out = torch.zeros(len(q), v.shape[-1], dtype=v.dtype)
    for h in range(head.num_heads):
        own, values = slice(h * narrow, (h + 1) * narrow), v[:, h * wide : (h + 1) * wide]
        for t in range(len(q)):
            query, keys = q[t, own], k[:, own]
            if isinstance(head, LinearHead):
                weights = torch.stack([(1 + F.elu(query)) @ (1 + F.elu(key)) for key in keys])
                weights = weights / weights.sum()
            elif isinstance(head, CrossHead):
                weights = torch.stack([(query @ key / narrow**0.5).exp() for key in keys])
                weights = weights / weights.sum()
            else:
                latents = query.exp() / query.exp().sum()
                reads = keys.exp() / keys.exp().sum(dim=0)
                weights = sum(latents[c] * reads[:, c] for c in range(narrow))
            assert (weights > 0).all() and weights.sum().item() == pytest.approx(1, abs=1e-5)
            out[t, h * wide : (h + 1) * wide] = sum(w * value for w, value in zip(weights, values, strict=True))
    return head.proj(out)


@pytest.mark.parametrize("kind", [LinearHead, CrossHead, LatentHead])
@pytest.mark.parametrize("proj", [False, True])
def test_heads_by_hand(kind, proj):
    torch.manual_seed(0)
    head, source, target = kind(12, 6, 3, proj), torch.randn(2, 6, 12), torch.randn(2, 4, 12)
    found = head(source, target)
    for b in range(2):
        torch.testing.assert_close(found[b], by_hand(head, source[b], target[b]))


def test_fusions_by_hand():
    torch.manual_seed(0)
    old, new = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    assert torch.equal(Fusion("add", 4, 6)(old, new), old + new)
    assert torch.equal(Fusion("erase", 4, 6)(old, new), new)
    fusion = Fusion("add_erase", 4, 6)
    found = fusion(old, new)
    for b in range(2):
        for k in range(4):
            alpha = torch.sigmoid(fusion.weight[0, k] @ new[b].mean(dim=0) + fusion.bias[0, k])
            torch.testing.assert_close(found[b, k], alpha * new[b, k] + (1 - alpha) * old[b, k])


def test_blocks_by_hand():
    """Equations 1 to 4: read, process, write, in this order, with everything that can be added."""
    torch.manual_seed(0)
    encoder = ViTTM(**SMALL, memory_mlp_ratio=1.0, fusion="add_erase").eval()
    x = torch.randn(1, 3, 64, 64)
    memory = encoder.memory_embed(x) + encoder.memory_pos_embed
    process = encoder.patch_embed(x) + encoder.pos_embed
    for i in range(3):
        process = encoder.process_fusion[i](process, encoder.read[i](memory, process))
        process = encoder.blocks[i](process)
        memory = encoder.memory_fusion[i](memory, encoder.write[i](process, memory))
        memory = memory + encoder.memory_mlp[i].mlp(encoder.memory_mlp[i].norm(memory))
    torch.testing.assert_close(encoder.forward_features(x), encoder.norm(process))


def test_starts_by_hand():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    down = ViTTM(**SMALL, process_init="downsample").eval()
    memory = (down.memory_embed(x) + down.memory_pos_embed).unflatten(1, (8, 8))
    cell = memory[:, 2:4, 4:6].mean(dim=(1, 2))  # row 1, column 2 of the 4 x 4 process tokens
    found = down._start(x, memory.flatten(1, 2))
    torch.testing.assert_close(found[:, 6], cell + down.pos_embed[:, 6])
    latent = ViTTM(**SMALL, process_init="latent").eval()
    assert torch.equal(latent._start(x, memory.flatten(1, 2)), latent.pos_embed.expand(2, -1, -1))
    assert count_parameters(down) == count_parameters(latent) < count_parameters(ViTTM(**SMALL))


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
@pytest.mark.slow
def test_every_variant_trains_and_is_kept(arguments, tmp_path):
    """Gradients reach every weight that is not frozen; another size, a folder, the same tokens."""
    torch.manual_seed(0)
    settings = {k: v for k, v in SMALL.items() if k != "num_classes"} | arguments
    encoder = Encoder.create("vittm_small_patch16_224", classes=list("abc"), **settings)
    encoder.train().model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    for name, weight in encoder.model.named_parameters():
        unread = name.startswith(("write.2.", "memory_fusion.2.", "memory_mlp.2."))
        assert weight.requires_grad != unread and (weight.grad is None) == unread, name
    encoder.set_image_size(96).save_pretrained(tmp_path)
    again = Encoder.load(tmp_path).eval()
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        found = again(x).last_hidden_state
        assert found.shape == (1, 36, 48)
        torch.testing.assert_close(found, encoder.eval()(x).last_hidden_state)
    assert not any(weight.requires_grad for weight in encoder.model.write[-1].parameters())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rw_head": "summary"}, "choose one of linear, cross, latent"),
        ({"fusion": "residual"}, "choose one of add, erase, add_erase"),
        ({"process_init": "random"}, "choose one of patch, downsample, latent"),
        ({"latent_ratio": 0.1}, "latent width 5 must be a multiple of its 3 heads"),
    ],
)
def test_what_cannot_be_made(arguments, said):
    with pytest.raises(EncoderError, match=said):
        ViTTM(**SMALL, **arguments)


@pytest.mark.slow
def test_a_folder_of_an_earlier_version(tmp_path):
    """Its config lacks the new arguments; its heads had one attention head and a projection, and still have."""
    torch.manual_seed(0)
    settings = {k: v for k, v in SMALL.items() if k != "num_classes"}
    old = Encoder.create("vittm_small_patch16_224", **settings, rw_heads=1, rw_proj=True).eval()
    old.save_pretrained(tmp_path / "encoder")
    tokenizer = train_tokenizer(drawings.captions(60), vocab_size=60)
    model = build_model(old, vocab_size=len(tokenizer), width=48, layers=1, heads=2)
    Captioner.from_model(model, tokenizer).save_pretrained(tmp_path / "captioner")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = old(x).last_hidden_state

    for folder in ("encoder", "captioner"):
        path = tmp_path / folder / "config.json"
        config = json.loads(path.read_text())
        for name in ("rw_heads", "rw_proj"):
            del config.get("encoder", config)["model_args"][name]
        path.write_text(json.dumps(config))
    captioner = Captioner.from_pretrained(tmp_path / "captioner", dtype=torch.float32)
    for again in (Encoder.load(tmp_path / "encoder").eval(), captioner.model.encoder):
        with torch.no_grad():
            assert torch.equal(again(x).last_hidden_state, expected)
        assert again.config.model_args["rw_heads"] == 1  # from here on its config says so

    weights = load_file(tmp_path / "encoder" / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.endswith("read.1.proj.weight")}
    save_file(kept, tmp_path / "encoder" / "model.safetensors")
    with pytest.raises(ModelFolderError, match=r"lacks 1 weights, the first is model\.read\.1\.proj\.weight"):
        Encoder.load(tmp_path / "encoder")
