"""ViTs with fewer tokens: against a slow reference, the plain ViT, and their papers' costs."""

import pytest
import timm
import torch

from encoders import EncoderError, create_encoder
from encoders.cost import count_gflops, count_parameters
from encoders.registry import describe_encoders
from tests.support import drawings, reference_reduction
from vlcap.captioner import Captioner
from vlcap.model.build import build_model
from vlcap.model.encoder import Encoder
from vlcap.model.tokenizer import train_tokenizer

SHAPE = {"img_size": 48, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}
VITS = {
    "mean of patches": {"vit": "vit_mini_patch8_96"},
    "class token": {"vit": "vit_tiny_patch16_224"},
    "registers": {"vit": "vit_tiny_patch16_224", "reg_tokens": 2, "qk_norm": True, "init_values": 0.5},
}
KINDS = {  # architecture: (arguments, tokens left of 36, side of the smallest grid that holds them)
    "poolvit_mini_patch8_96": ({"budget": 3, "budgets": [2, 3]}, 9, 3),
    "tome_mini_patch8_96": ({"r": 7}, 8, 3),
    "evit_mini_patch8_96": ({"keep_rate": 0.6}, 10, 4),
}


def make(name, vit, **arguments):
    torch.manual_seed(0)
    encoder = create_encoder(name, **SHAPE, **VITS[vit], num_classes=5, **arguments).double().eval()
    for weight in encoder.parameters():  # initial weights would make all tokens alike
        weight.data += 0.2 * torch.randn_like(weight)
    return encoder


@pytest.fixture
def photos():
    torch.manual_seed(1)
    return torch.randn(2, 3, 48, 48, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("vit", VITS)
@pytest.mark.parametrize("side", [1, 2, 4, 6])
def test_pooling_against_the_reference(vit, side, photos):
    encoder = make("poolvit_mini_patch8_96", vit)
    with torch.no_grad():
        found = encoder.forward_tokens(photos, side)
        for b in range(2):
            torch.testing.assert_close(found[b], reference_reduction.pooled(encoder.wrapped, photos[b : b + 1], side))


@pytest.mark.slow
@pytest.mark.parametrize("vit", VITS)
@pytest.mark.parametrize("r", [0, 3, 8, 50])
def test_tome_against_the_reference(vit, r, photos):
    encoder = make("tome_mini_patch8_96", vit, r=r)
    with torch.no_grad():
        found = encoder.forward_tokens(photos)
        for b in range(2):
            torch.testing.assert_close(found[b], reference_reduction.tome(encoder.wrapped, photos[b : b + 1], r))


@pytest.mark.slow
@pytest.mark.parametrize("vit", VITS)
@pytest.mark.parametrize(("keep_rate", "reduce_at"), [(1.0, None), (0.7, None), (0.3, (0, 2))])
def test_evit_against_the_reference(vit, keep_rate, reduce_at, photos):
    encoder = make("evit_mini_patch8_96", vit, keep_rate=keep_rate, reduce_at=reduce_at)
    with torch.no_grad():
        found = encoder.forward_tokens(photos)
        for b in range(2):
            expected = reference_reduction.evit(encoder.wrapped, photos[b : b + 1], keep_rate, reduce_at or (1, 2, 3))
            torch.testing.assert_close(found[b], expected)


def test_evits_fused_token_by_hand():
    """x_fused = sum of a_i x_i (arXiv 2202.07800, section 3.2): a_i is the class token's attention to token i, averaged
    over heads, as it is. It is not normalized over the tokens that are fused, and no other token's attention counts."""
    encoder = make("evit_mini_patch8_96", "class token", keep_rate=0.5)
    x = torch.randn(1, 5, 24, dtype=torch.float64)  # class token and four patches, of which two stay
    weights = [[0.1, 0.4, 0.1, 0.3, 0.1], [0.2, 0.2, 0.3, 0.1, 0.2], [0.3, 0.3, 0.2, 0.05, 0.15]]  # three heads
    k = torch.randn(1, 3, 5, 8, dtype=torch.float64)
    k[0, :, :, 0] = torch.tensor(weights, dtype=torch.float64).log()
    q = torch.randn(1, 3, 5, 8, dtype=torch.float64)
    q[0, :, 0] = 0.0
    q[0, :, 0, 0] = 2.0  # halved by the scale below: the logits are the weights' logarithms
    found = encoder._reorganise(x, q, k, 0.5, kept=2)[0]
    mean = torch.tensor(weights, dtype=torch.float64).mean(dim=0)  # 0.2, 0.3, 0.2, 0.15, 0.15
    expected = [x[0, 0], x[0, 1], x[0, 2], mean[3] * x[0, 3] + mean[4] * x[0, 4]]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("vit", VITS)
@pytest.mark.parametrize(
    ("name", "nothing"), [("tome_mini_patch8_96", {"r": 0}), ("evit_mini_patch8_96", {"keep_rate": 1.0})]
)
def test_without_reduction_it_is_the_vit(vit, name, nothing, photos):
    encoder = make(name, vit, **nothing)
    with torch.no_grad():
        for each in (encoder.float(), encoder.double()):
            x = photos.to(next(each.parameters()).dtype)
            torch.testing.assert_close(each.forward_tokens(x), each.wrapped.forward_features(x), atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(each(x), each.wrapped(x), atol=1e-6, rtol=1e-6)


def test_a_timm_vits_weights_fit():
    """Names in the state dict are timm's."""
    plain = timm.create_model("vit_tiny_patch16_224", **SHAPE)
    for name in KINDS:
        encoder = create_encoder(name, **SHAPE, vit="vit_tiny_patch16_224")
        encoder.load_state_dict(plain.state_dict())
        assert count_parameters(encoder) == count_parameters(plain)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "gmacs"),
    [
        *(
            ("evit_small_patch16_224", {"keep_rate": rate}, gmacs)
            for rate, gmacs in ((0.9, 4.01), (0.8, 3.46), (0.7, 3.01), (0.6, 2.62), (0.5, 2.30))
        ),
        ("tome_small_patch16_224", {"r": 13}, 2.7),
    ],
)
def test_published_costs(name, arguments, gmacs):
    """On DeiT-S, as EViT's paper (arXiv 2202.07800) and ToMe's (arXiv 2210.09461) have them."""
    with torch.device("meta"):
        found = count_gflops(create_encoder(name, num_classes=0, **arguments)) / 2
    assert found == pytest.approx(gmacs, rel=0.01)


@pytest.mark.slow
def test_pooling_costs_what_its_vit_costs():
    with torch.device("meta"):
        pooled, plain = (create_encoder(f"{kind}_base_patch16_224", num_classes=0) for kind in ("poolvit", "vit"))
        assert count_gflops(pooled, 3) == count_gflops(pooled, 10) == count_gflops(plain)


@pytest.mark.slow
def test_they_are_listed_with_the_papers_figure():
    rows = {row["name"]: row for name in ("tome_*", "evit_*") for row in describe_encoders(name)}
    assert rows["tome_small_patch16_224"]["gflops_paper"] == {7: 5.4}
    assert rows["evit_small_patch16_224"]["gflops_paper"] == {9: 6.02}
    assert "gflops_paper" not in rows["tome_mini_patch8_96"]
    for row in rows.values():
        for budget, gflops in row.get("gflops_paper", {}).items():
            assert row["gflops"][budget] == pytest.approx(gflops, rel=0.01)
    assert rows["tome_mini_patch8_96"]["budgets"] == rows["evit_mini_patch8_96"]["budgets"] == [5]


@pytest.mark.parametrize("name", KINDS)
def test_contract(name, photos):
    arguments, tokens, side = KINDS[name]
    encoder = make(name, "mean of patches", **arguments)
    assert encoder.budget == side and side in encoder.budgets
    with torch.no_grad():
        found = encoder.forward_tokens(photos)
        assert found.shape == (2, tokens, 24) and encoder.token_count(side, 48) == tokens
        assert torch.equal(encoder.forward_tokens(photos, side), found)
        [pooled] = encoder.forward_pooled(photos)
        torch.testing.assert_close(encoder.head(pooled), encoder(photos))
    refused = "whole number from 1 to 6" if encoder.has_choice else f"no choice of budget: it is {side}, not 7"
    with pytest.raises(EncoderError, match=refused):
        encoder(photos, budget=7)
    encoder.float().set_input_size(64)
    larger = torch.randn(1, 3, 64, 64)
    assert encoder.forward_tokens(larger).shape[1] == encoder.token_count(encoder.budget, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("vit", VITS)
def test_gradients_reach_every_weight(name, vit, photos):
    encoder = make(name, vit, **KINDS[name][0]).train()
    (encoder(photos).square().sum() + encoder.forward_tokens(photos).square().sum()).backward()
    assert all(weight.grad is not None for weight in encoder.parameters())


def test_tomes_gradients_by_differences():
    """Away from ties, the choice of pairs is constant and the rest is differentiable."""
    encoder = make("tome_mini_patch8_96", "class token", r=3)
    x = torch.randn(1, 3, 48, 48, dtype=torch.float64, requires_grad=True)
    encoder.forward_tokens(x).sin().sum().backward()
    step = 1e-6 * torch.randn_like(x)
    with torch.no_grad():
        up, down = (encoder.forward_tokens(x + sign * step).sin().sum() for sign in (1, -1))
    assert ((up - down) / 2).item() == pytest.approx((x.grad * step).sum().item(), rel=1e-4)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.slow
def test_a_captioner_on_each(name, tmp_path):
    arguments, tokens, side = KINDS[name]
    torch.manual_seed(0)
    tokenizer = train_tokenizer(drawings.captions(60), vocab_size=60)
    encoder = Encoder.create(name, **SHAPE, **arguments)
    model = build_model(encoder, vocab_size=len(tokenizer), width=32, layers=1, heads=2, max_length=12)
    made = Captioner.from_model(model, tokenizer)
    made.save_pretrained(tmp_path)
    loaded = Captioner.from_pretrained(tmp_path)
    x = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        found = loaded.model.encoder(x, budget=side).last_hidden_state
        assert torch.equal(found, made.model.encoder(x, budget=side).last_hidden_state)
    assert found.shape[1] == tokens == loaded.model.encoder.token_count(side)
    assert loaded.model.encoder.has_choice == (name == "poolvit_mini_patch8_96")


def test_what_cannot_be_made():
    for arguments, said in (
        ({"vit": "hf-hub:someone/something"}, "'hf-hub:someone/something' is not a timm model"),
        ({"vit": "resnet18"}, "vit resnet18 cannot be made: .*img_size"),
        (
            {"vit": "beit_base_patch16_224", **SHAPE},
            "beit_base_patch16_224 cannot be reduced: it is not",
        ),
        ({"vit": "vittm_mini_patch8_96"}, "vittm_mini_patch8_96 cannot be reduced: it is not"),  # it has a memory
        ({"vit": "tokenlearner12_mini_patch8_96"}, "cannot be reduced: it is not"),
        ({"r": -1}, "r is -1"),
        ({"r": True}, "r is True"),
    ):
        with pytest.raises(EncoderError, match=said):
            create_encoder("tome_mini_patch8_96", **arguments)
    with pytest.raises(EncoderError, match="keep_rate is 0:"):
        create_encoder("evit_mini_patch8_96", keep_rate=0)
