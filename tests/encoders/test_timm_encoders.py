"""Anyone's frozen encoder with few tokens: SigLIP, DINOv2, CLIP and EfficientNet, small and from timm's folders."""

import math

import pytest
import torch
import torch.nn.functional as F

from encoders import EncoderError, create_encoder
from encoders.cost import count_gflops
from encoders.timm_encoders import left_after, merges_to
from tests.support import frozen_models, reference_reduction
from tests.support.frozen_models import KINDS, SIDES, VIT, VITS
from vlcap.model.timm_encoder import make_encoder

every_kind = pytest.mark.parametrize("kind", KINDS)
every_vit = pytest.mark.parametrize("kind", VITS)


@pytest.fixture(scope="module")
def models():
    """The models that the folders were written from."""
    return {kind: frozen_models.make(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    root = tmp_path_factory.mktemp("timm")
    return {kind: frozen_models.write(model, root / kind) for kind, model in models.items()}


@pytest.fixture(scope="module")
def made(folders):
    """The encoder of a kind with its tokens reduced, made once."""
    kept = {}

    def make(kind, reduce=None):
        if (kind, reduce) not in kept:
            kept[kind, reduce] = make_encoder(f"timm:{folders[kind]}", reduce).eval()
        return kept[kind, reduce]

    return make


def photos(encoder, seed=1):
    torch.manual_seed(seed)
    return torch.randn(2, 3, encoder.pixels.size, encoder.pixels.size)


def positions(kind, model, x):
    """What timm's own forward_features says of each position: (B, P + N, D). A convolutional map has no norm yet."""
    features = model.forward_features(x)
    if kind != "efficientnet":
        return features
    return F.layer_norm(features.flatten(2).transpose(1, 2), features.shape[1:2])


@pytest.mark.slow
@every_kind
def test_without_reduction_it_is_timms_model(kind, models, made):
    encoder = made(kind)
    x = photos(encoder)
    with torch.no_grad():
        found = encoder(x).last_hidden_state
        torch.testing.assert_close(found, positions(kind, models[kind], x), atol=1e-6, rtol=1e-6)
    prefix = {"siglip": 0, "dinov2": 5, "clip": 1, "efficientnet": 0}[kind]
    assert found.shape[1] == SIDES[kind] ** 2 + prefix == encoder.token_count(encoder.budget)
    assert not encoder.has_choice and encoder.config.budgets == [SIDES[kind]]
    assert encoder.config.architecture == KINDS[kind][0]


@every_kind
@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_pooled_tokens_are_means_of_positions(kind, side, models, made):
    encoder, grid = made(kind, "pool"), SIDES[kind]
    x = photos(encoder)
    with torch.no_grad():
        found = encoder(x, budget=side).last_hidden_state
        all_of_them = positions(kind, models[kind], x)[:, -(grid**2) :].unflatten(1, (grid, grid))

    def cell(i):
        return slice(i * grid // side, math.ceil((i + 1) * grid / side))

    expected = [all_of_them[:, cell(i), cell(j)].mean(dim=(1, 2)) for i in range(side) for j in range(side)]
    torch.testing.assert_close(found, torch.stack(expected, dim=1), atol=1e-6, rtol=1e-5)
    assert encoder.token_count(side) == side**2 and encoder.grid_side() == grid


@every_vit
@pytest.mark.parametrize(("side", "merges"), [(2, [4, 4, 4]), (3, [3, 3, 1]), (4, [0, 0, 0])])
def test_tome_against_the_reference(kind, side, merges, models, made):
    """16 patches to 4, 9 and 16: the same r in each block, until there are enough."""
    encoder = made(kind, "tome")
    x = photos(encoder)
    prefix = models[kind].num_prefix_tokens
    assert encoder.model.merges(16, side) == merges
    with torch.no_grad():
        found = encoder(x, budget=side).last_hidden_state
        assert found.shape == (2, side**2, 48) and encoder.token_count(side) == side**2
        for b in range(2):
            expected = reference_reduction.tome(models[kind], x[b : b + 1], merges)[prefix:]
            torch.testing.assert_close(found[b], expected, atol=1e-5, rtol=1e-5)


@every_vit
@pytest.mark.parametrize(
    ("side", "keeps"), [(1, {0: 6, 1: 2, 2: 0}), (2, {0: 10, 1: 6, 2: 3}), (3, {0: 13, 1: 10, 2: 8}), (4, {})]
)
def test_evit_against_the_reference(kind, side, keeps, models, made):
    """Shares of the 16: the cube root of 1/16, 4/16, 9/16, rounded up; one of those left is the fused token."""
    encoder = made(kind, "evit")
    x = photos(encoder)
    prefix = models[kind].num_prefix_tokens
    assert encoder.model.keeps(16, side) == keeps
    with torch.no_grad():
        found = encoder(x, budget=side).last_hidden_state
        assert found.shape == (2, side**2, 48)
        for b in range(2):
            expected = reference_reduction.evit(models[kind], x[b : b + 1], None, keeps)[prefix:]
            torch.testing.assert_close(found[b], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("patches", [16, 49, 196, 256, 1369])
@pytest.mark.parametrize("blocks", [6, 12, 24])
def test_the_rules_of_tome_and_evit(patches, blocks):
    """For all budgets that people would ask of a real ViT: every block obeys, and the last number is the target."""
    for side in range(1, math.isqrt(patches) + 1):
        least = patches
        for _ in range(blocks):
            least -= least // 2
        if side**2 >= least:
            merges = merges_to(patches, side**2, blocks)
            left = [patches - sum(merges[:i]) for i in range(blocks + 1)]
            assert left[-1] == side**2 and max(merges) <= patches // 2
            assert all(r <= before // 2 for r, before in zip(merges, left, strict=False))
            full = [r for r, before in zip(merges, left, strict=False) if r < min(before // 2, before - side**2)]
            assert len({*full}) <= 1  # one r for all blocks that nothing else limits
        shares = left_after(patches, side**2, 3)
        assert shares[-1] == side**2 and sorted(shares, reverse=True) == shares and shares[0] <= patches
    assert merges_to(196, 49, 12) == (13,) * 11 + (4,)
    assert left_after(196, 49, 3) == [124, 78, 49]


def vit_flops(kind, merged=(0, 0, 0), keeps=None):
    """FLOPs of the small ViTs by hand: 2 x MACs of every product, from the numbers of tokens alone."""
    d, heads, n = VIT["embed_dim"], VIT["num_heads"], 16
    patch, prefix = (14, 5) if kind == "dinov2" else (8, 1 if kind == "clip" else 0)
    total = n * d * 3 * patch**2
    for block in range(3):
        tokens = n + prefix
        total += 3 * tokens * d * d + 2 * tokens * tokens * d + tokens * d * d  # queries, keys, values; two products
        if merged[block]:
            a = math.ceil((n - prefix % 2) / 2)
            total += a * (n - a) * (d // heads)  # how similar each of A is to each of B
            n -= merged[block]
        if keeps and block in keeps:
            total += (1 if kind == "clip" or kind == "dinov2" else tokens) * tokens * d  # attention, a second time
            total += (n - keeps[block]) * d  # the fused token
            n = keeps[block] + 1
        total += 2 * (n + prefix) * d * 4 * d
    return 2 * total


@every_vit
def test_costs_are_those_of_a_count_by_hand(kind, made):
    plain = vit_flops(kind)
    assert made(kind).gflops() * 1e9 == pytest.approx(plain, rel=1e-9)
    assert made(kind, "pool").gflops(2) * 1e9 == pytest.approx(plain, rel=1e-9)
    for side, merges in ((2, (4, 4, 4)), (3, (3, 3, 1))):
        assert made(kind, "tome").gflops(side) * 1e9 == pytest.approx(vit_flops(kind, merges), rel=1e-9)
    for side, keeps in ((2, {0: 10, 1: 6, 2: 3}), (3, {0: 13, 1: 10, 2: 8})):
        assert made(kind, "evit").gflops(side) * 1e9 == pytest.approx(vit_flops(kind, keeps=keeps), rel=1e-9)


def test_a_pooled_convolutional_model_costs_its_convolutions(models, made):
    macs, handles = [], []
    for module in models["efficientnet"].modules():
        if isinstance(module, torch.nn.Conv2d):
            hook = module.register_forward_hook(lambda conv, _, y: macs.append(y[0, 0].numel() * conv.weight.numel()))
            handles.append(hook)
    models["efficientnet"].forward_features(torch.zeros(1, 3, 160, 160))
    for handle in handles:
        handle.remove()
    for reduce in (None, "pool"):
        assert made("efficientnet", reduce).gflops() * 1e9 == pytest.approx(2 * sum(macs), rel=1e-9)


@pytest.mark.slow
@every_kind
def test_blocks_over_a_frozen_model(kind, models, made):
    """The lookup tokens come from the model's last feature map, as timm gives it; the cost is the sum of the parts."""
    encoder = made(kind, "lookup")
    x = photos(encoder)
    with torch.no_grad():
        maps = encoder.model.trunk_features(x)
        expected = models[kind].forward_intermediates(x, intermediates_only=True)[-len(maps) :]
        for found, each in zip(maps, expected, strict=True):
            torch.testing.assert_close(found, each, atol=1e-5, rtol=1e-5)
        assert torch.equal(encoder(x, budget=3).last_hidden_state, encoder(list(maps), budget=3).last_hidden_state)
    assert encoder(x, budget=2).last_hidden_state.shape == (2, 4, 256)
    assert encoder.gathers and encoder.has_choice and encoder.trunk is encoder.model.trunk
    n, m, d = encoder.grid_side() ** 2, 9, 256
    encoder.model.set_reassociation(False)
    blocks = count_gflops(encoder.model, 3, encoder.pixels.size, trunk=False)
    trunk = encoder.gflops(3) - blocks
    encoder.model.set_reassociation(True)
    embedding = sum(each[0].numel() * d for each in maps)
    one = (3 * n * m + 2 * m * m) * d + (4 * n + 15 * m) * d * d  # equation 6
    unread = n * m * d + m * d * d + 2 * n * d * d  # the last block's infusion and its lookup MLP
    assert blocks * 1e9 == pytest.approx(2 * (2 * one - unread + embedding), rel=0.02)
    if kind in VITS:
        assert trunk * 1e9 == pytest.approx(vit_flops(kind), rel=1e-9)


def test_freezing_leaves_the_blocks_alone(folders):
    encoder = make_encoder(f"timm:{folders['dinov2']}", "lookup", classes=["cat", "dog"])
    encoder.model.freeze_trunk()
    encoder.model.train()(photos(encoder)).sum().backward()
    for name, weight in encoder.model.named_parameters():
        assert weight.requires_grad == (".trunk." not in name)
        assert weight.grad is None or ".trunk." not in name


@every_kind
def test_preprocessing_is_the_models_own(kind, models, made):
    cfg, pixels = models[kind].pretrained_cfg, made(kind).pixels
    assert (pixels.mean, pixels.std) == (tuple(cfg["mean"]), tuple(cfg["std"]))
    assert (pixels.interpolation, pixels.crop_pct) == (cfg["interpolation"], cfg["crop_pct"])
    assert pixels.size == KINDS[kind][1].get("img_size", 160) and pixels.crop_mode == cfg.get("crop_mode", "center")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "reduce"), [("dinov2", None), ("dinov2", "lookup"), ("efficientnet", "pool")])
def test_photos_of_another_size(kind, reduce, folders, models):
    size = {"dinov2": 84, "efficientnet": 96}[kind]
    encoder = make_encoder(f"timm:{folders[kind]}", reduce, image_size=size).eval()
    assert encoder.pixels.size == size == encoder.config.model_args["img_size"]
    found = encoder(photos(encoder)).last_hidden_state
    assert found.shape[1] == encoder.token_count(encoder.budget)
    again = create_encoder(encoder.config.architecture, **encoder.config.model_args)
    again.load_state_dict(encoder.model.state_dict())
    assert torch.equal(again.eval().forward_tokens(photos(encoder)), found)
    if kind == "dinov2" and reduce is None:
        resized = frozen_models.make(kind)
        resized.set_input_size(img_size=84)
        torch.testing.assert_close(found, resized.forward_features(photos(encoder)), atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_what_cannot_be_reduced(folders):
    for kind, reduce, budgets, said in (
        ("efficientnet", "tome", None, "test_efficientnet cannot be .*Pooling reduces the tokens of any model"),
        ("efficientnet", "evit", None, "test_efficientnet cannot be .*Pooling"),
        ("clip", "tome", [1], "cannot leave 1 of 16 tokens: a block merges half of them at most, and there are 3"),
        ("clip", "pool", [5], "budget 5 does not fit.*from 1 to 4"),
        ("clip", "lookup", [2, 5], "budget 5 does not fit.*from 1 to 4"),
        ("clip", None, [3], "gives all of its tokens: for budgets, choose --reduce pool"),
    ):
        with pytest.raises(EncoderError, match=said):
            make_encoder(f"timm:{folders[kind]}", reduce, budgets)
    for arguments in ({"base": "hf-hub:someone/model"}, {"base": "local-dir:/etc"}, {}):
        with pytest.raises(EncoderError, match="is not a timm model"):
            create_encoder("timm_pool", **arguments)
    with pytest.raises(EncoderError, match="is not a timm model"):
        create_encoder("timm_lookup", trunk="local-dir:/etc")
    with pytest.raises(EncoderError, match="chooses its tokens itself"):
        create_encoder("timm_pool", base="poolvit_mini_patch8_96")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "test_convnext", "test_resnet"])
def test_other_models_pool_and_carry_blocks(name):
    """Channels last, and names of weights that timm flattens."""
    small = {"img_size": 64, "window_size": 2, "depths": [1, 1], "embed_dim": 16, "num_heads": [1, 2]}
    arguments, size = (small, 64) if name.startswith("swin") else ({}, 96)
    x = torch.randn(1, 3, size, size)
    assert create_encoder("timm_pool", base=name, **{"img_size": size, **arguments}).forward_tokens(x, 2).shape[1] == 4
    own = {key: value for key, value in arguments.items() if key != "img_size"}
    over = create_encoder("timm_lookup", trunk=name, trunk_args=own, img_size=size)
    assert over.forward_tokens(x, 2).shape == (1, 4, 256)
