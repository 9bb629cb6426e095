"""The encoders of the comparison: one contract, each at its paper's cost."""

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2

from encoders import create_encoder
from encoders.cost import count_gflops
from encoders.interface import TimmEncoder
from encoders.tokenlearner import TokenLearner
from vlcap.model.encoder import Encoder

SMALL = {"img_size": 64, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 5}
OTHERS = {  # architecture: (arguments, tokens it gives)
    "vit_tiny_patch16_224": ({**SMALL, "patch_size": 8}, 65),
    "vit_base_patch16_siglip_224": ({**SMALL, "patch_size": 8}, 64),
    "tokenlearner12_small_patch16_224": ({**SMALL, "patch_size": 8}, 16),
    "tokenlearner34_small_patch16_224": ({**SMALL, "patch_size": 8}, 16),
    "vittm_small_patch16_224": ({**SMALL, "patch_size": 8, "process_patch_size": 16}, 16),
    "vit_mini_patch8_96": (SMALL, 64),
}


@pytest.fixture(params=OTHERS)
def small(request):
    torch.manual_seed(0)
    arguments, tokens = OTHERS[request.param]
    return create_encoder(request.param, **arguments).eval(), tokens


@pytest.mark.parametrize(
    ("name", "gflops"),
    [
        ("vit_base_patch16_224", 35.1),
        ("vit_large_patch16_224", 123.5),
        ("tokenlearner12_base_patch16_224", 19.1),
        ("tokenlearner34_base_patch16_224", 27.1),
        ("tokenlearner12_large_patch16_224", 66.5),
        ("tokenlearner34_large_patch16_224", 94.6),
        ("vittm_base_patch16_224", 2 * 7.10),
    ],
)
@pytest.mark.slow
def test_each_at_its_papers_cost(name, gflops):
    with torch.device("meta"):
        assert count_gflops(create_encoder(name, num_classes=0)) == pytest.approx(gflops, rel=0.03)


def vit_macs(tokens: int, width: int, depth: int) -> int:
    return depth * (12 * tokens * width**2 + 2 * tokens**2 * width)


def linear_head_macs(source: int, target: int, width: int, heads: int) -> int:
    latent = width // 4
    queries, keys, values = target * width * latent, source * width * latent, source * width**2
    return queries + keys + values + (source + target) * latent * width // heads + target * latent


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("vit_base_patch16_224", 196 * 768**2 + vit_macs(197, 768, 12)),
        ("vit_mini_patch8_96", 144 * 192**2 + vit_macs(144, 192, 6)),
        (
            "tokenlearner34_base_patch16_224",
            196 * 768**2 + vit_macs(196, 768, 9) + 196 * 64 * (768 + 16) + 16 * 196 * 768 + vit_macs(16, 768, 3),
        ),
        (
            "vittm_base_patch16_224",
            196 * 768**2
            + 49 * 32**2 * 3 * 768
            + vit_macs(49, 768, 12)
            + 12 * (linear_head_macs(196, 49, 768, 12) + linear_head_macs(49, 196, 768, 12)),
        ),
    ],
)
@pytest.mark.slow
def test_cost_by_hand(name, macs):
    with torch.device("meta"):
        assert count_gflops(create_encoder(name, num_classes=0)) == pytest.approx(2e-9 * macs, rel=1e-6)


@pytest.mark.slow
def test_the_minis_are_alike():
    names = [
        "lookupvit_mini_patch8_96",
        "vit_mini_patch8_96",
        "tokenlearner12_mini_patch8_96",
        "tokenlearner34_mini_patch8_96",
        "vittm_mini_patch8_96",
    ]
    found = [create_encoder(name, num_classes=0) for name in names]
    assert len({(encoder.embed_dim, len(encoder.blocks)) for encoder in found}) == 1
    pixels = [Encoder.create(name).pixels for name in names]
    assert len(set(pixels)) == 1 and pixels[0].size == 96
    tokens = [encoder.eval().forward_tokens(torch.zeros(1, 3, 96, 96)).shape[1] for encoder in found]
    assert tokens == [25, 144, 16, 16, 36]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OTHERS, "lookupvit_test_patch8_48"])
def test_taken_to_another_size(name, tmp_path):
    """The positional embedding is resampled as timm does it; the larger one is saved and loaded."""
    arguments = {k: v for k, v in OTHERS.get(name, ({}, 0))[0].items() if k != "num_classes"}
    encoder = Encoder.create(name, **arguments)
    small = {name: weight.clone() for name, weight in encoder.model.named_parameters()}
    encoder.set_image_size(96).save_pretrained(tmp_path)
    again = Encoder.from_pretrained(tmp_path).eval()
    assert again.pixels.size == 96 and again.config.budgets == list(again.model.budgets)
    tokens = again(torch.randn(1, 3, 96, 96)).last_hidden_state
    assert tokens.shape[1] in (again.model.budget**2, again.model.budget**2 + again.model.num_prefix_tokens)
    for name, weight in again.model.named_parameters():
        if name in ("pos_embed", "memory_pos_embed"):
            (before, old), (after, new) = ((each, int(each.shape[1] ** 0.5)) for each in (small[name], weight))
            grid = before[:, -(old**2) :].unflatten(1, (old, old)).permute(0, 3, 1, 2)  # a class token's comes first
            expected = F.interpolate(grid, (new, new), mode="bicubic", antialias=True).permute(0, 2, 3, 1).flatten(1, 2)
            torch.testing.assert_close(after[:, -(new**2) :], expected, atol=1e-5, rtol=1e-4)
        else:
            assert torch.equal(weight, small[name])


def test_tokens_and_budgets(small):
    encoder, tokens = small
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found = encoder.forward_tokens(x)
        assert found.shape == (2, tokens, 48)
        assert torch.equal(encoder.forward_tokens(x, budget=encoder.budget), found)
        assert encoder(x, budget=None).shape == (2, 5)
    assert list(encoder.budgets) == [encoder.budget]
    for refused in (encoder.budget + 1, 0, "5"):
        with pytest.raises(ValueError, match=f"it is {encoder.budget}"):
            encoder.forward_tokens(x, budget=refused)
        with pytest.raises(ValueError, match="no choice of budget"):
            encoder(x, budget=refused)


@pytest.mark.slow
def test_tokens_are_normed(small):
    encoder, _ = small
    with torch.no_grad():
        tokens = encoder.forward_tokens(torch.randn(2, 3, 64, 64))
    assert tokens.mean(dim=-1).abs().max() < 1e-4
    assert (tokens.std(dim=-1, unbiased=False) - 1).abs().max() < 1e-2


def test_gradients_reach_every_weight_that_is_trained(small):
    """In training with several processes, they would wait forever for the gradients of the others."""
    encoder, _ = small
    encoder.train()(torch.randn(2, 3, 64, 64)).square().sum().backward()
    frozen = {name for name, weight in encoder.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, weight in encoder.named_parameters() if weight.grad is None}
    assert all(name.startswith("write.3.") for name in frozen)  # nothing reads what ViTTM's last block writes


def test_timm_contract(small):
    encoder, _ = small
    assert encoder.num_features == 48
    assert encoder.forward_head(encoder.forward_features(torch.randn(1, 3, 64, 64)), pre_logits=True).shape == (1, 48)
    names = dict(encoder.named_parameters())
    assert {"pos_embed"} <= set(encoder.no_weight_decay()) <= names.keys() | {"cls_token", "dist_token", "reg_token"}
    groups = create_optimizer_v2(encoder, opt="adamw", lr=1e-3, layer_decay=0.5).param_groups
    trained = [weight for weight in names.values() if weight.requires_grad]
    assert sum(len(group["params"]) for group in groups) == len(trained)
    encoder.reset_classifier(0)
    assert encoder(torch.randn(1, 3, 64, 64)).shape == (1, 48)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_saved_and_loaded_as_hugging_face_does(name, tmp_path):
    arguments, _ = OTHERS[name]
    encoder = Encoder.create(name, classes=list("abcde"), **{k: v for k, v in arguments.items() if k != "num_classes"})
    encoder.save_pretrained(tmp_path)
    again = Encoder.from_pretrained(tmp_path)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.eval()(x).last_hidden_state, encoder.eval()(x).last_hidden_state)
    assert again.config.budgets == list(encoder.model.budgets)
    with pytest.raises(ValueError, match="no choice of budget"):
        again.set_budgets([2, 3])


@pytest.mark.slow
def test_a_vit_stays_timms(small):
    encoder, _ = small
    assert isinstance(encoder, TimmEncoder) and isinstance(encoder.wrapped, VisionTransformer)
    assert encoder.state_dict().keys() == encoder.wrapped.state_dict().keys()
    assert dict(encoder.named_parameters()).keys() == dict(encoder.wrapped.named_parameters()).keys()
    plain = timm.create_model("vit_tiny_patch16_224", **OTHERS["vit_tiny_patch16_224"][0])
    ours = create_encoder("vit_tiny_patch16_224", **OTHERS["vit_tiny_patch16_224"][0])
    assert ours.state_dict().keys() == plain.state_dict().keys()
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours.eval()(x), plain.eval()(x))
    assert torch.equal(ours.forward_tokens(x), plain.forward_features(x))


@pytest.mark.slow
def test_what_is_no_encoder():
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=r"PoolingVisionTransformer cannot be an encoder.*\(1, 1, 256\), no square"),
    ):
        create_encoder("pit_ti_224")  # it gives its class token alone
    with torch.device("meta"), pytest.raises(ValueError, match=r"CrossVit cannot be an encoder.* gives a list"):
        create_encoder("crossvit_tiny_240")
    with pytest.raises(ValueError, match="test_efficientnet has no proj_drop_rate: set it to 0"):
        create_encoder("test_efficientnet", proj_drop_rate=0.1)
    with pytest.raises(RuntimeError, match="no_such_model"):
        create_encoder("no_such_model")


def test_token_learner_by_hand():
    """Each learned token is the mean of all tokens under the softmax, over tokens, of what the MLP says of each."""
    torch.manual_seed(0)
    learner, x = TokenLearner(8, num_tokens=3), torch.randn(2, 5, 8)
    found = learner(x)
    for b in range(2):
        said = learner.mlp(F.layer_norm(x[b], (8,), learner.norm.weight, learner.norm.bias, eps=1e-6))
        for s in range(3):
            weight = said[:, s].exp() / said[:, s].exp().sum()
            torch.testing.assert_close(found[b, s], sum(weight[n] * x[b, n] for n in range(5)))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "tokenlearner12_small_patch16_224"])
@pytest.mark.slow
def test_the_classifier_trains_them_too(name, class_folder, tmp_path):
    from train.classifier import ClassifierRecipe, train_classifier

    recipe = ClassifierRecipe.load(None, [f"encoder={name}", "steps=1", "batch_size=4", "limit=8", "workers=0"])
    figures = train_classifier(recipe, [str(class_folder)], tmp_path)
    assert any(figure.startswith("top1@") for figure in figures)
    assert Encoder.from_pretrained(tmp_path / "encoder").config.architecture == name


@pytest.fixture
def local_weights(tmp_path):
    """A timm model with weights in a local file, as if they had been downloaded."""
    from safetensors.torch import save_file
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

    torch.manual_seed(3)
    shape = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
    there = VisionTransformer(num_classes=11, **shape)
    save_file(there.state_dict(), tmp_path / "weights.safetensors")
    name = "vit_of_this_machine"

    def vit_of_this_machine(pretrained=False, **kwargs):
        return build_model_with_cfg(VisionTransformer, name, pretrained, **{**shape, **kwargs})

    vit_of_this_machine.__module__ = __name__
    globals()["default_cfgs"] = generate_default_cfgs(
        {
            name: {
                "file": str(tmp_path / "weights.safetensors"),
                "num_classes": 11,
                "input_size": (3, 64, 64),
                "mean": (0.4, 0.5, 0.6),
                "std": (0.2, 0.2, 0.2),
                "first_conv": "patch_embed.proj",
                "classifier": "head",
            }
        }
    )
    register_model(vit_of_this_machine)
    return name, there


@pytest.mark.slow
def test_pretrained_by_name(local_weights, class_folder, tmp_path):
    """timm's weights and preprocessing with heads for other classes; in the trainer too."""
    from train.classifier import Classification, ClassifierRecipe

    name, there = local_weights
    encoder = Encoder.create(name, classes=["a", "b"], pretrained=True)
    assert encoder.pixels.mean == (0.4, 0.5, 0.6)
    assert encoder.model.head.out_features == 2
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(encoder.eval()(x).last_hidden_state, there.eval().forward_features(x))
    encoder.save_pretrained(tmp_path / "encoder")  # from here on timm's weights are not needed
    with torch.no_grad():
        assert torch.equal(
            Encoder.from_pretrained(tmp_path / "encoder").eval()(x).last_hidden_state, there.forward_features(x)
        )

    recipe = ClassifierRecipe.load(None, [f"encoder={name}", "pretrained=true", "image_size=32", "workers=0"])
    task = Classification(recipe, [str(class_folder)], tmp_path)
    assert torch.equal(task.model.blocks[1].mlp.fc1.weight, there.blocks[1].mlp.fc1.weight)
    assert task.model.patch_embed.grid_size == (4, 4) and task.model.head.out_features == 4
    loss = task.loss(task.model, task.collate([task.train_set[i] for i in range(2)]), None)
    assert torch.isfinite(loss.mean)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_tokens_are_counted_and_cached(name, captioned_folder, tmp_path):
    """All tokens, including a class token."""
    arguments, tokens = OTHERS[name]
    encoder = Encoder.create(name, **{k: v for k, v in arguments.items() if k != "num_classes"}).freeze()
    check_cache(encoder, tokens, captioned_folder, tmp_path)


def test_lookup_tokens_are_counted_and_cached(captioned_folder, tmp_path):
    """The ablation that reads lookup tokens instead of compressed ones: as many as there are patches."""
    check_cache(Encoder.create("lookupvit_test_patch8_48", streams=["lookup"]).freeze(), 36, captioned_folder, tmp_path)


def check_cache(encoder, tokens, captioned_folder, tmp_path):
    from train.cache import TokenCache
    from vlcap.data.captions import read_captions

    assert encoder.token_count(encoder.model.budget) == tokens
    captions = read_captions(captioned_folder, "val", limit=3)
    cache = TokenCache(tmp_path, encoder, captions, encoder.config.budgets).fill()
    pixels = torch.stack([encoder.pixels.eval_transform()(captions.image(i)) for i in (2, 0)])
    with torch.no_grad():
        expected = encoder(encoder.pixels.normalize(pixels)).last_hidden_state
    found = cache.read(f"budget{encoder.model.budget}", [2, 0], view=0)
    assert found.shape == (2, tokens, encoder.config.hidden_size)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
