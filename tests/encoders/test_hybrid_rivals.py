"""Other blocks over LookupViT's trunk: their cost, their tokens, the frozen trunk, and cached features."""

import copy
import itertools

import pytest
import torch

from encoders import create_encoder, hybrid, hybrid_rivals
from encoders.cost import count_gflops
from encoders.interface import TimmEncoder
from tests.encoders.test_hybrid import lookup_grid
from tests.support import reference_reduction
from train.cache import FrozenCache
from train.classifier import Classification, ClassifierRecipe
from vlcap.model.encoder import Encoder

KINDS = {"poolvit": 0, "tome": 1, "evit": 1, "tokenlearner": 0, "vittm": 0}  # class tokens among the 9 or 25
SMALL = {"trunk": "test_efficientnet", "img_size": 64, "num_heads": 2}
ARGUMENTS = {  # for 4 x 4 tokens of the small trunk: arguments, and the tokens that are left
    "vit_hybrid_lite2_224": ({}, 17),
    "poolvit9_hybrid_lite2_224": ({}, 9),
    "tome9_hybrid_lite2_224": ({"r": 5, "depth": 2}, 7),
    "evit9_hybrid_lite2_224": ({"keep_rate": 0.5}, 7),
    "tokenlearner9_hybrid_lite2_224": ({}, 9),
    "vittm9_hybrid_lite2_224": ({}, 9),
}


def make(name, **arguments):
    torch.manual_seed(0)
    encoder = create_encoder(name, **SMALL, embed_dim=32, num_classes=5, **ARGUMENTS[name][0], **arguments).eval()
    for weight in encoder.parameters():  # initial weights would make all tokens alike
        weight.data += 0.1 * torch.randn_like(weight)
    return encoder


class Maps(torch.nn.Module):
    """A trunk's feature maps without its work: their shapes are enough to count what stands on it."""

    def __init__(self, trunk):
        super().__init__()
        self.feature_info = trunk.feature_info

    def forward(self, x):
        maps = [(each["num_chs"], x.shape[-1] // each["reduction"]) for each in self.feature_info.get_dicts()]
        return [x.new_zeros(len(x), channels, side, side) for channels, side in maps]


@pytest.mark.slow
def test_they_cost_what_lookupvit_costs(monkeypatch):
    """Blocks and embedding, 2 x MACs, at 9 and at 25 tokens: within 5 %, none of them an exception."""
    with torch.device("meta"):
        maps = Maps(hybrid.create_trunk(hybrid_rivals.TRUNK, hybrid_rivals.INDICES))
        monkeypatch.setattr(hybrid, "create_trunk", lambda *_: maps)
        lookupvit = create_encoder("lookupvit_hybrid_lite2_224", num_classes=0)
        for kind, budget in itertools.product(("vit", *KINDS), (3, 5)):
            tokens = budget**2
            encoder = create_encoder(f"{kind}{tokens}_hybrid_lite2_224", num_classes=0)
            wanted = count_gflops(lookupvit, budget, trunk=False)
            assert count_gflops(encoder, trunk=False) == pytest.approx(wanted, rel=0.05), (kind, tokens)
            if kind != "vit":  # which keeps them all
                assert encoder.budget == budget and encoder.token_count(budget, 224) == tokens, kind
                assert encoder.prefix_tokens * (kind != "poolvit") == KINDS[kind]


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_features_in_place_of_pixels(name):
    encoder, pixels = make(name), torch.randn(2, 3, 64, 64)
    assert encoder.has_trunk and encoder.starts_from == "trunk" and not encoder.any_size
    with torch.no_grad():
        features = encoder.trunk_features(pixels)
        found = encoder.forward_tokens(pixels)
        assert found.shape == (2, ARGUMENTS[name][1], 32)
        assert len(found[0]) == encoder.token_count(encoder.budget, 64)
        assert torch.equal(encoder.forward_tokens(features), found)
        assert torch.equal(encoder(features), encoder(pixels))


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_frozen_trunk_stays_frozen(name):
    encoder = make(name)
    encoder.freeze_trunk()
    for each in (encoder, copy.deepcopy(encoder)):
        each.train()
        assert each.training and each.blocks[0].training
        assert not any(module.training for module in each.trunk.modules())
        each(torch.randn(2, 3, 64, 64)).square().sum().backward()
        learn = {key for key, weight in each.named_parameters() if weight.requires_grad}
        assert learn == {key for key, weight in each.named_parameters() if weight.grad is not None}
        assert not any(".trunk." in key for key in learn) and any(".projections." in key for key in learn)
        assert not each.eval().blocks[0].training


def test_the_vit_by_hand():
    """A grid as LookupViT's, joined by hand, then a class token, positions and timm's blocks."""
    encoder, pixels = make("vit_hybrid_lite2_224").double(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    state = encoder.state_dict()
    with torch.no_grad():
        maps = encoder.trunk_features(pixels)
        tokens = torch.cat([state["cls_token"][0], lookup_grid(state, [each[0] for each in maps])])
        expected = encoder.norm(encoder.blocks(tokens[None] + state["pos_embed"]))
        torch.testing.assert_close(encoder.forward_tokens(pixels), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["tome", "evit"])
def test_reduction_against_the_reference(kind):
    encoder = make(f"{kind}9_hybrid_lite2_224").double()
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    how = (5,) if kind == "tome" else (0.5, (0, 1))
    with torch.no_grad():
        expected = getattr(reference_reduction, kind)(encoder.wrapped, pixels, *how)
        torch.testing.assert_close(encoder.forward_tokens(pixels)[0], expected)


@pytest.mark.slow
def test_vittms_memory_is_the_features():
    """Its process tokens start as their averages, on a grid that stays for images of other sizes."""
    encoder = make("vittm9_hybrid_lite2_224")
    with torch.no_grad():
        encoder.memory_pos_embed.normal_()
        changed = encoder.forward_tokens(torch.randn(1, 3, 64, 64))
        encoder.memory_pos_embed.zero_()
        assert not torch.allclose(changed, encoder.forward_tokens(torch.randn(1, 3, 64, 64)))
        encoder.set_input_size(96)
        assert encoder.memory_embed.grid_size == (6, 6)
        assert encoder.forward_tokens(torch.randn(1, 3, 96, 96)).shape == (1, 9, 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARGUMENTS if not name.startswith("vit_")])
def test_saved_and_loaded(name, tmp_path):
    encoder = Encoder.create(name, **SMALL, embed_dim=32, **ARGUMENTS[name][0]).eval()
    encoder.set_image_size(96).set_image_size(64).save_pretrained(tmp_path)
    loaded, pixels = Encoder.load(tmp_path).eval(), torch.randn(1, 3, 64, 64)
    assert loaded.trunk is not None and isinstance(loaded.model, TimmEncoder)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels).last_hidden_state, encoder(pixels).last_hidden_state)


@pytest.mark.slow
def test_cached_views_are_shared(class_folder, tmp_path, monkeypatch):
    """What is cached depends on the trunk, the photos and cache_seed: not on the blocks, nor on the run's seed."""
    monkeypatch.setattr(FrozenCache, "fill", lambda cache: cache)
    start = Encoder.create("vit_hybrid_lite2_224", **SMALL, embed_dim=32)
    torch.save(start.trunk.state_dict(), tmp_path / "trunk.pth")
    caches = []
    for name, seed in (("tome9_hybrid_lite2_224", 0), ("vittm9_hybrid_lite2_224", 1)):
        encoder = Encoder.create(name, **SMALL, embed_dim=32, **ARGUMENTS[name][0])
        encoder.trunk.load_state_dict(torch.load(tmp_path / "trunk.pth"))
        encoder.save_pretrained(tmp_path / name)
        settings = [
            f"encoder={tmp_path / name}",
            "cache_views=2",
            "cache_seed=0",
            f"seed={seed}",
            "limit=2",
            "workers=0",
        ]
        task = Classification(ClassifierRecipe.load(None, settings), [str(class_folder)], tmp_path / "run")
        caches.append(task.train_set.caches[0])
    assert caches[0].folder == caches[1].folder and caches[0].files == caches[1].files
    assert caches[0].photos.fingerprint() == caches[1].photos.fingerprint()
