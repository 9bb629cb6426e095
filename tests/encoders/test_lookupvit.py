"""LookupViT against a reference written from the paper, the paper's FLOPs, and timm's requirements.

Tolerances, all relative to the largest magnitude of the reference tensor: a float64 model's outputs, attentions and
gradients to 1e-10, a float32 model's outputs to 1e-5 and its gradients to 1e-4.
Run by `pytest tests/encoders/test_lookupvit.py`.
"""

import functools
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn as nn
from safetensors.torch import save_file
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import Tensor

import encoders  # noqa: F401  registers the models
from encoders.cost import count_gflops
from tests.support import reference_lookupvit as reference

TEST_MODEL = "lookupvit_test_patch8_48"
NAMES = timm.list_models("lookupvit_*", exclude_filters="*_hybrid_*")  # tested in tests/encoders/test_hybrid.py
PATCH, NATIVE_GRID, CLASSES, DEPTH = 8, (6, 6), 11, 3
EXACT, SINGLE, SINGLE_GRADIENT = 1e-10, 1e-5, 1e-4

# D, K, image, budget: the native grid and a larger oblong one; then as many patches as the native grid in another
# shape, a single compressed token, and no compression at all.
CASES = [
    (embed_dim, num_heads, size, budget)
    for embed_dim, num_heads in [(48, 3), (64, 4)]
    for size in [(48, 48), (72, 56)]
    for budget in [2, 3, 5]
]
CASES += [(56, 2, (32, 72), 3), (56, 2, (40, 64), 1), (56, 2, (48, 48), 6)]
every_case = pytest.mark.parametrize(("embed_dim", "num_heads", "size", "budget"), CASES)
every_name = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices this small gain nothing from threads, which only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(embed_dim: int = 48, num_heads: int = 3, **options) -> nn.Module:
    """The test model in eval mode with every parameter random: no zero, no one, no zero head left."""
    options = {"num_classes": CLASSES, "depth": DEPTH, "embed_dim": embed_dim, "num_heads": num_heads} | options
    model = timm.create_model(TEST_MODEL, **options)
    generator = torch.Generator().manual_seed(embed_dim)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and name != "pos_embed":
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_(0.3 * noise + ("norm" in name and name.endswith("weight")))
    return model.eval()


def random_pixels(size: tuple[int, int], dtype: torch.dtype = torch.float64, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(sum(size))).to(dtype)


def on_meta(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **options)


def error(ours: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest magnitude of what was expected."""
    assert ours.shape == expected.shape
    return ((ours.double() - expected).abs().max() / expected.abs().max()).item()


# The reference itself


def test_reference_resize_by_hand():
    """Shrinking 4 to 2, the triangle reaches 2 old samples to each side; growing 2 to 4, one, with the border held."""
    expected = {
        (4, 2): [[3 / 7, 3 / 7, 1 / 7, 0], [0, 1 / 7, 3 / 7, 3 / 7]],
        (2, 4): [[1, 0], [3 / 4, 1 / 4], [1 / 4, 3 / 4], [0, 1]],
        (3, 3): [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        (3, 1): [[2 / 7, 3 / 7, 2 / 7]],
    }
    for (size, new_size), rows in expected.items():
        torch.testing.assert_close(torch.tensor(reference.resize_weights(size, new_size)), torch.tensor(rows).float())


# The model against the reference


@functools.cache
def by_reference(embed_dim: int, num_heads: int, size: tuple[int, int], budget: int) -> SimpleNamespace:
    """The reference's outputs for `build` and `random_pixels`, and the gradients of `scalar`."""
    state = {name: value.double().requires_grad_() for name, value in build(embed_dim, num_heads).state_dict().items()}
    pixels = random_pixels(size).requires_grad_()
    compressed, lookup, attentions = reference.tokens(state, pixels, budget, num_heads, PATCH, NATIVE_GRID)
    logits = reference.heads(state, compressed, lookup)
    scalar(logits).backward()
    return SimpleNamespace(
        compressed=compressed.detach(),
        lookup=lookup.detach(),
        logits=[output.detach() for output in logits],
        attentions=[attention.detach() for attention in attentions],
        gradients={name: value.grad for name, value in state.items()} | {"pixels": pixels.grad},
    )


def scalar(logits: tuple[Tensor, Tensor]) -> Tensor:
    """A fixed random projection of both heads' logits."""
    weights = torch.randn(2, 2, CLASSES, generator=torch.Generator().manual_seed(7)).to(logits[0].dtype)
    return (logits[0] * weights[0]).sum() + (logits[1] * weights[1]).sum()


@every_case
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, EXACT), (torch.float32, SINGLE)], ids=["float64", "float32"]
)
def test_outputs_agree_with_the_reference(embed_dim, num_heads, size, budget, dtype, tolerance):
    theirs = by_reference(embed_dim, num_heads, size, budget)
    model = build(embed_dim, num_heads).to(dtype)
    pixels = random_pixels(size, dtype)
    with torch.no_grad():
        tokens = model.forward_tokens(pixels, budget=budget)
        features = model.forward_features(pixels, budget=budget)
        average = model(pixels, budget=budget)
        found = {}
        model.forward_streams(pixels, budget, intermediates=found)
        model.set_joint_training()
        still_average = model(pixels, budget=budget)
        joint = model.train()(pixels, budget=budget)
    assert tokens.dtype == dtype
    assert error(tokens, theirs.compressed) < tolerance
    assert error(features[0], theirs.compressed) < tolerance
    assert error(features[1], theirs.lookup) < tolerance
    assert error(average, sum(theirs.logits) / 2) < tolerance
    assert torch.equal(still_average, average), "eval mode averages, joint training or not"
    assert error(joint[0], theirs.logits[0]) < tolerance
    assert error(joint[1], theirs.logits[1]) < tolerance
    assert len(theirs.attentions) == DEPTH
    for block, attention in enumerate(theirs.attentions):
        assert error(found[f"blocks.{block}.attn"], attention) < tolerance


@pytest.mark.slow
@every_case
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, EXACT), (torch.float32, SINGLE_GRADIENT)], ids=["float64", "float32"]
)
def test_gradients_agree_with_the_reference(embed_dim, num_heads, size, budget, dtype, tolerance):
    """Of `scalar`, by every parameter and the pixels."""
    theirs = by_reference(embed_dim, num_heads, size, budget).gradients
    model = build(embed_dim, num_heads).to(dtype).train()
    model.set_joint_training()
    pixels = random_pixels(size, dtype).requires_grad_()
    scalar(model(pixels, budget=budget)).backward()
    ours = {name: value.grad for name, value in model.named_parameters()} | {"pixels": pixels.grad}
    assert ours.keys() == theirs.keys()
    typical = sum(gradient.abs().max().item() for gradient in theirs.values()) / len(theirs)
    for name, gradient in theirs.items():
        difference = (ours[name].double() - gradient).abs().max().item()
        if name.endswith("gather.k_norm.bias"):  # adds the same to every key's logit: nothing but rounding
            assert gradient.abs().max() < EXACT * typical
            assert difference < tolerance * typical, name
        else:
            assert difference < tolerance * gradient.abs().max().item(), name


@pytest.mark.parametrize("global_pool", ["avg", ""])
def test_forward_head_by_hand(global_pool):
    """The pooled streams, their average before the heads; unpooled compressed tokens where there is nothing to pool."""
    model = build(global_pool=global_pool, num_classes=CLASSES if global_pool else 0)
    features = model.forward_features(random_pixels((48, 48), torch.float32))
    if global_pool:
        pooled = [stream.mean(dim=1) for stream in features]
        logits = (model.head(pooled[0]) + model.head_lookup(pooled[1])) / 2
        torch.testing.assert_close(model.forward_head(features), logits)
        torch.testing.assert_close(model.forward_head(features, pre_logits=True), (pooled[0] + pooled[1]) / 2)
    else:
        assert torch.equal(model.forward_head(features), features[0])


# What the tokens depend on


def test_default_budget_and_many_budgets_of_one_model():
    model = build(budget=3)
    pixels = random_pixels((48, 48), torch.float32)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.budget == 3
    assert torch.equal(model.forward_tokens(pixels), model.forward_tokens(pixels, budget=3))
    assert torch.equal(model(pixels), model(pixels, budget=3))
    assert torch.equal(model.train().forward_tokens(pixels), model.eval().forward_tokens(pixels)), "no draw in training"
    shapes = {budget: tuple(model.forward_tokens(pixels, budget=budget).shape) for budget in (1, 2, 4, 6, 3)}
    assert shapes == {budget: (2, budget**2, 48) for budget in shapes}
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(build(budget=2).forward_tokens(pixels), model.forward_tokens(pixels, budget=2))


def test_lookup_tokens_reach_compressed_tokens_by_gathering():
    """Pixels change so that the resized features don't: only the lookup tokens can tell, and gathering tells it."""
    budget, grid = 2, (6, 6)
    shrink = reference.resize_matrix(grid, (budget, budget))
    unseen = torch.linalg.svd(shrink).Vh[-1]  # one number per patch, of which T makes nothing
    assert (shrink @ unseen).abs().max() < 1e-12 < unseen.abs().max()
    stamp = torch.randn(3, PATCH, PATCH, generator=torch.Generator().manual_seed(5)).double()
    change = torch.einsum("hw,cij->chiwj", unseen.reshape(grid), stamp).reshape(1, 3, 48, 48)
    model = build().double()
    pixels = random_pixels((48, 48), batch=1)

    def moved() -> float:
        with torch.no_grad():
            before, after = (model.forward_tokens(photo, budget=budget) for photo in (pixels, pixels + change))
        return (after - before).abs().max().item()

    assert moved() > 1e-3
    with torch.no_grad():
        for block in model.blocks:
            block.gather.proj.weight.zero_()
            block.gather.proj.bias.zero_()
    assert moved() < 1e-12, "without gathering the compressed tokens see T's output alone"


def test_last_infusion_is_left_out_of_forward_tokens_and_changes_nothing():
    model = build()
    pixels = random_pixels((48, 48), torch.float32)
    called = []
    for block in model.blocks:
        block.infuse.register_forward_hook(lambda module, inputs, output: called.append(module))
        block.mlp.fc1.register_forward_hook(lambda module, inputs, output: called.append(module))
    with torch.no_grad():
        tokens = model.forward_tokens(pixels)
        assert len(called) == 2 * (DEPTH - 1)
        features = model.forward_features(pixels)
        assert torch.equal(tokens, features[0])
        model.blocks[-1].infuse.proj.weight.mul_(-2)
        model.blocks[-1].mlp.fc2.weight.mul_(-2)
        assert torch.equal(tokens, model.forward_tokens(pixels))
        assert not torch.equal(features[1], model.forward_features(pixels)[1])
        model.blocks[-2].infuse.proj.weight.mul_(-2)
        assert not torch.equal(tokens, model.forward_tokens(pixels)), "an earlier infusion does reach them"


def test_images_of_a_batch_do_not_mix():
    model = build().double()
    pixels = random_pixels((72, 56), batch=3)
    with torch.no_grad():
        together = model.forward_tokens(pixels, budget=3)
        apart = torch.cat([model.forward_tokens(pixels[i : i + 1], budget=3) for i in range(3)])
    assert error(together, apart) < EXACT


# Errors


@pytest.mark.parametrize("call", ["forward", "forward_tokens", "forward_features"])
@pytest.mark.parametrize(
    ("budget", "size", "named"),
    [
        (0, (48, 48), ["0", "6"]),
        (-1, (48, 48), ["-1", "6"]),
        (7, (48, 48), ["7", "6"]),
        (6, (72, 40), ["6", "5"]),
        (True, (48, 48), ["True"]),
        (2.5, (48, 48), ["2.5"]),
    ],
)
def test_budget_that_does_not_fit(call, budget, size, named):
    model = timm.create_model(TEST_MODEL)
    with pytest.raises(ValueError, match="budget") as raised:
        getattr(model, call)(torch.zeros(1, 3, *size), budget=budget)
    assert all(number in str(raised.value) for number in named)


@pytest.mark.parametrize("call", ["forward", "forward_tokens", "forward_features"])
@pytest.mark.parametrize("size", [(50, 48), (48, 50)])
def test_size_that_patches_do_not_fill(call, size):
    model = timm.create_model(TEST_MODEL)
    with pytest.raises(ValueError) as raised:
        getattr(model, call)(torch.zeros(1, 3, *size))
    assert "50" in str(raised.value) and "8" in str(raised.value)


# What it costs


def in_the_papers_order(model: nn.Module) -> nn.Module:
    model.set_reassociation(False)
    return model


def table_1_gflops(embed_dim: int, depth: int, patch_size: int, n: int, m: int) -> float:
    """2 x MACs of the compressed tokens by the paper's terms (equation 6): the last block neither infuses nor runs the
    lookup tokens' MLP, whose output would be read by nothing; the patch embedding counts."""
    d = embed_dim
    gather = (2 * m + 2 * n) * d * d + 2 * n * m * d
    refine = 12 * m * d * d + 2 * m * m * d
    infuse = (m + n) * d * d + n * m * d
    lookup_mlp = n * d * d
    assert gather + refine + infuse + lookup_mlp == (3 * n * m + 2 * m * m) * d + (4 * n + 15 * m) * d * d
    macs = n * 3 * patch_size**2 * d + depth * (gather + refine) + (depth - 1) * (infuse + lookup_mlp)
    return 2 * macs / 1e9


@pytest.mark.parametrize(
    ("name", "embed_dim", "depth", "paper"),
    [
        ("lookupvit_base_patch16_224", 768, 12, {3: 12.9, 5: 16.5, 7: 21.9, 10: 33.6}),
        ("lookupvit_large_patch16_224", 1024, 24, {3: 46.2, 5: 58.8, 7: 77.7, 10: 118.5}),
    ],
    ids=["base", "large"],
)
@pytest.mark.slow
def test_flops_of_table_1(name, embed_dim, depth, paper):
    """Within 1 % of the paper's figures, 0.5 % of the formula."""
    model = in_the_papers_order(on_meta(name, num_classes=0))
    for budget, gflops in paper.items():
        counted = count_gflops(model, budget=budget)
        assert counted == pytest.approx(gflops, rel=0.01), budget
        assert counted == pytest.approx(table_1_gflops(embed_dim, depth, 16, 196, budget**2), rel=0.005), budget


@pytest.mark.slow
def test_flops_of_a_larger_photo():
    """384 pixels, 576 lookup tokens: section 3.5's example."""
    model = in_the_papers_order(on_meta("lookupvit_base_patch16_224", num_classes=0))
    assert count_gflops(model, budget=5, size=384) == pytest.approx(table_1_gflops(768, 12, 16, 576, 25), rel=0.005)


@every_name
def test_weights_per_block(name):
    """19 D^2 in matrices; 34.5 D in biases and norms, counted below; nothing shared between blocks."""
    model = on_meta(name)
    d = model.embed_dim
    biases = 4 + (3 + 1 + 4 + 1) + (1 + 1) + (0.5 + 1)  # gather; refine: qkv, proj, fc1, fc2; infuse; lookup MLP
    norms = 2 * (4 + 2 + 2 + 1)  # the block's own; Q and K of gather; the ViT block's; V of infuse
    for block in model.blocks:
        assert sum(p.numel() for p in block.parameters() if p.ndim == 2) == 19 * d * d
        assert sum(p.numel() for p in block.parameters() if p.ndim == 1) == (biases + norms) * d
    patch = model.get_submodule("patch_embed.proj")
    rest = patch.weight.numel() + d + model.pos_embed.numel() + 2 * 2 * d + 2 * (1000 * d + 1000)
    assert sum(p.numel() for p in model.parameters()) == len(model.blocks) * (19 * d * d + 34.5 * d) + rest


# What timm asks of a model


@every_name
def test_configuration_names_what_exists(name):
    model = on_meta(name)
    cfg = model.pretrained_cfg
    assert isinstance(model.get_submodule(cfg["first_conv"]), nn.Conv2d)
    assert len(cfg["classifier"]) == 2
    assert tuple(model.get_submodule(classifier) for classifier in cfg["classifier"]) == tuple(model.get_classifier())
    assert tuple(cfg["input_size"][1:]) == tuple(model.patch_embed.img_size)
    assert cfg["num_classes"] == model.num_classes == 1000
    assert cfg["architecture"] == name
    assert model.no_weight_decay() <= {parameter for parameter, _ in model.named_parameters()}
    assert "pos_embed" in model.no_weight_decay()
    assert model.budget in model.budgets
    assert max(model.budgets) <= min(model.patch_embed.grid_size)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == cfg["input_size"] and config["mean"] == cfg["mean"]


@every_name
@pytest.mark.slow
def test_heads_come_and_go(name):
    model = on_meta(name)
    d = model.num_features
    assert d == model.embed_dim == model.head_hidden_size == model.pos_embed.shape[-1]
    n, m = model.pos_embed.shape[1], model.budget**2
    features = (torch.empty(2, m, d, device="meta"), torch.empty(2, n, d, device="meta"))
    pixels = torch.empty(2, *model.pretrained_cfg["input_size"], device="meta")
    assert [tuple(stream.shape) for stream in model.forward_features(pixels)] == [(2, m, d), (2, n, d)]
    assert tuple(model.forward_head(features).shape) == (2, 1000)
    for classes in (7, 0, 5):
        model.reset_classifier(classes)
        assert model.num_classes == classes
        assert tuple(model.forward_head(features, pre_logits=True).shape) == (2, d)
        assert tuple(model.forward_head(features).shape) == (2, classes or d)
        for head in model.get_classifier():
            assert head.out_features == classes if classes else isinstance(head, nn.Identity)
    assert all(parameter.device.type == "meta" for parameter in model.parameters()), "new heads stay where the model is"


def test_new_heads_train_and_take_the_models_dtype():
    model = build().double()
    model.reset_classifier(7)
    assert model(random_pixels((48, 48))).shape == (2, 7)
    model.train()
    model.set_joint_training()
    assert [tuple(logits.shape) for logits in model(random_pixels((48, 48)))] == [(2, 7), (2, 7)]


@pytest.mark.slow
@every_name
def test_layer_groups_cover_all_parameters(name):
    """Stem 0, block i at i + 1, the final norms with the last block or after it, both heads alone and last."""
    model = on_meta(name)
    names = [parameter for parameter, _ in model.named_parameters()]
    depth = len(model.blocks)
    layer = group_parameters(model, model.group_matcher(), reverse=True)
    assert sorted(layer) == sorted(names)
    for parameter in names:
        match parameter.split("."):
            case ["patch_embed", *_] | ["pos_embed"]:
                assert layer[parameter] == 0, parameter
            case ["blocks", block, *_]:
                assert layer[parameter] == int(block) + 1, parameter
            case ["norm" | "norm_lookup", _]:
                assert depth <= layer[parameter] < max(layer.values()), parameter
            case _:
                assert layer[parameter] == max(layer.values()) and parameter.startswith("head"), parameter
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert sorted(coarse) == sorted(names)

    groups = param_groups_layer_decay(
        model, weight_decay=0.1, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay()
    )
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    settings = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert settings[id(model.head.weight)] == settings[id(model.head_lookup.weight)] == (1.0, 0.1)
    assert settings[id(model.pos_embed)] == (0.5 ** max(layer.values()), 0.0)


def test_gradient_checkpointing_gives_the_same_gradients():
    model = build().train()
    model.set_joint_training()
    pixels = random_pixels((72, 56), torch.float32)
    calls = []
    model.blocks[1].gather.q.register_forward_hook(lambda module, inputs, output: calls.append(module))

    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        calls.clear()
        model.zero_grad()
        model.set_grad_checkpointing(checkpointing)
        sum(logits.square().sum() for logits in model(pixels, budget=3)).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    plain = gradients(False)
    assert len(calls) == 1
    checkpointed = gradients(True)
    assert len(calls) == 2, "the block is computed again on the way back"
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_checkpoint_round_trips(tmp_path):
    """safetensors through timm, torch's own format through timm, and a plain state dict."""
    model = build(embed_dim=64, num_heads=4)
    pixels = random_pixels((48, 48), torch.float32)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pth")
    options = dict(num_classes=CLASSES, embed_dim=64, depth=DEPTH, num_heads=4)
    for file in ("model.safetensors", "model.pth"):
        again = timm.create_model(TEST_MODEL, checkpoint_path=str(tmp_path / file), **options).eval()
        assert torch.equal(again(pixels), model(pixels)), file
    other = timm.create_model(TEST_MODEL, **options).eval()
    assert not torch.equal(other(pixels), model(pixels))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(pixels), model(pixels))


def test_pretrained_weights_of_another_number_of_classes(tmp_path):
    """timm drops both classifiers by their names in `pretrained_cfg` and keeps the rest."""
    model = build(embed_dim=64, num_heads=4, num_classes=1000)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = timm.create_model(
        TEST_MODEL,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "model.safetensors")},
        num_classes=7,
        embed_dim=64,
        depth=DEPTH,
        num_heads=4,
    ).eval()
    pixels = random_pixels((48, 48), torch.float32)
    assert torch.equal(again.forward_tokens(pixels), model.forward_tokens(pixels))
    assert again(pixels).shape == (2, 7)


@pytest.mark.slow
def test_export():
    """torch.export at a fixed size and budget."""
    model = build()
    pixels = random_pixels((48, 48), torch.float32)
    exported = torch.export.export(model, (pixels,), {"budget": 3}).module()
    torch.testing.assert_close(exported(pixels, budget=3), model(pixels, budget=3))
