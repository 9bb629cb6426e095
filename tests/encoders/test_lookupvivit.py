"""LookupViViT and ViViT: equal to a slow reference, at the paper's costs, trained, saved and loaded as any encoder."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from encoders import EncoderError, create_encoder
from encoders.lookupvivit import resize_clip
from encoders.registry import describe_encoders
from tests.support import reference_lookupvivit as reference
from vlcap.model.encoder import Encoder

NAMES = ["lookupvivit_test_patch8x2_48", "vivit_test_patch8x2_48"]
SMALL = {"img_size": 24, "frames": 4, "embed_dim": 16, "num_classes": 3}  # 3 x 3 x 2 lookup tokens


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = create_encoder(NAMES[0], **SMALL).eval()
    for weight in model.parameters():  # norms and biases too must count
        weight.data += 0.1 * torch.randn_like(weight)
    return model


@pytest.mark.parametrize("budget", [(2, 1), (3, 2), (1, 2)])
def test_equal_to_the_reference_on_a_clip_of_four_frames(small, budget):
    clips = torch.randn(2, 3, 4, 24, 24, generator=torch.manual_seed(1))
    expected = reference.tokens(small.state_dict(), clips, budget, num_heads=2, patch=8, tubelet=2)
    with torch.no_grad():
        for found, wanted in zip(small.forward_features(clips, budget), expected, strict=True):
            torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-4)
        compressed = small.forward_tokens(clips, budget)
    assert compressed.shape == (2, small.token_count(budget, 24), 16)
    torch.testing.assert_close(compressed.double(), expected[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [*NAMES, "lookupvit_test_patch8_48"])
def test_a_size_that_patches_do_not_divide_is_refused(name):
    with pytest.raises(EncoderError, match="50 pixels are not a multiple of the patch size"):
        create_encoder(name).set_input_size(50)


def test_resized_in_space_and_time():
    grid = torch.randn(1, 5, 4, 6, 3, dtype=torch.float64)
    matrix = reference.resize_matrix((5, 4, 6), (2, 3, 3))
    torch.testing.assert_close(resize_clip(grid, 3, 2)[0], matrix @ grid[0].flatten(0, 2), atol=1e-5, rtol=1e-5)
    assert torch.equal(resize_clip(grid[:, :, :, :4], 4, 5), grid[:, :, :, :4].flatten(1, 3))


def macs(model, budget):
    """GMACs to classify a clip, both streams read."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        assert model(torch.empty(1, 3, 32, 224, 224, device="meta"), budget).shape == (1, 400)
    return counter.get_total_flops() / 2e9


@pytest.mark.slow
def test_the_costs_of_table_4():
    """LookupViT's Table 4 prints MACs under the name of GFLOPs."""
    with torch.device("meta"):
        ours, vivit = (
            create_encoder(f"{kind}_base_patch16x2_224", num_classes=400) for kind in ("lookupvivit", "vivit")
        )
    ours.set_reassociation(False)  # the paper's order of products
    found = {budget: macs(ours, budget) for budget in ((9, 8), (8, 16), (9, 16))} | {"ViViT": macs(vivit, None)}
    print(found)
    assert found == pytest.approx({(9, 8): 226.5, (8, 16): 311.2, (9, 16): 375.8, "ViViT": 455.1}, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_weight(name):
    model = create_encoder(name, **SMALL).train()
    model(torch.randn(2, 3, 4, 24, 24)).square().sum().backward()
    assert {each for each, weight in model.named_parameters() if weight.grad is None} == set()


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded(name, tmp_path):
    encoder = Encoder.create(name, classes=["left", "right"]).eval()
    assert encoder.model.frames == 8 and encoder.gflops() > 0
    encoder.save_pretrained(tmp_path)
    again, clips = Encoder.load(tmp_path).eval(), torch.randn(1, 3, 8, 48, 48)
    with torch.no_grad():
        tokens = again(clips).last_hidden_state
        assert torch.equal(tokens, encoder(clips).last_hidden_state)
        assert torch.equal(again.model(clips), encoder.model(clips))
        [*pooled] = again.model.forward_pooled(clips)
    assert tokens.shape == (1, again.token_count(again.budget), 64)
    assert all(each.shape == (1, 64) for each in pooled)
    again.set_image_size(64)
    assert again.model(torch.randn(1, 3, 8, 64, 64)).shape == (1, 2)


def test_clips_of_other_lengths(small):
    assert small.forward_tokens(torch.randn(1, 3, 8, 32, 32), budget=(2, 4)).shape == (1, 16, 16)


def test_what_does_not_fit(small):
    clip = torch.randn(1, 3, 4, 24, 24)
    for budget, problem in [((3, 3), "1 to 2"), ((4, 1), "1 to 3"), ((2, True), "over time"), ("9x9", "budget '9x9'")]:
        with pytest.raises(EncoderError, match=problem):
            small(clip, budget)
    with pytest.raises(EncoderError, match=r"clips \(B, 3, T, S, S\)"):
        small(torch.randn(1, 3, 24, 24))
    with pytest.raises(EncoderError, match="3 frames are not a multiple"):
        small(torch.randn(1, 3, 3, 24, 24))
    with pytest.raises(EncoderError, match="compressed tokens over time"):
        create_encoder(NAMES[0], time_budget=5)
    with pytest.raises(EncoderError, match="it reads clips of 8x48x48"):
        create_encoder(NAMES[1])(clip)


def test_listed():
    rows = {row["name"]: row for name in NAMES for row in describe_encoders(name)}
    assert rows[NAMES[0]]["gflops"][2] < rows[NAMES[0]]["gflops"][3] < rows[NAMES[1]]["gflops"][6]
