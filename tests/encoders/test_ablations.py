"""Table 5's switches: each takes away one part and no more, at the paper's cost."""

from functools import partial

import pytest
import timm
import torch

from encoders.cost import count_gflops
from tests.support import noisy_lookupvit

create = partial(noisy_lookupvit.create, 0.05)


@pytest.fixture(scope="module")
def x():
    torch.manual_seed(1)
    return torch.randn(2, 3, 48, 48)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("switches", "gflops"),
    [
        ({}, 16.5),
        ({"lookup_tokens": False}, 4.5),
        ({"infusion": False}, 11.0),
        ({"streams": ("compressed",)}, 16.5),
        ({"streams": ("lookup",)}, 16.9),  # these tokens are read, so the last infusion is not left out
        ({"learned_tokens": True}, 16.5),
    ],
)
def test_cost_in_table_5(switches, gflops):
    with torch.device("meta"):
        model = timm.create_model("lookupvit_base_patch16_224", num_classes=0, **switches)
    model.set_reassociation(False)  # as the paper counts
    assert count_gflops(model, budget=5) == pytest.approx(gflops, rel=0.015)


def test_no_lookup_tokens_is_a_vit_of_the_resized_patches(x):
    model = create(lookup_tokens=False)
    compressed, _ = model.embed(x)
    for block in model.blocks:
        compressed = block.refine(compressed)
    assert torch.equal(model.forward_tokens(x), model.norm(compressed))
    assert not any("gather" in name or "infuse" in name for name, _ in model.named_parameters())


def test_no_infusion_is_an_infusion_of_nothing(x):
    """The full model gives the same tokens if its infusions and lookup MLPs are set to zero."""
    without, whole = create(infusion=False), create()
    whole.load_state_dict(
        {
            **whole.state_dict(),
            **{name: weight for name, weight in without.state_dict().items() if name in whole.state_dict()},
        }
    )
    for block in whole.blocks:
        for layer in (block.infuse.proj, block.mlp.fc2):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    torch.testing.assert_close(without.forward_tokens(x), whole.forward_tokens(x))
    assert torch.equal(without.forward_features(x)[1], without.norm_lookup(without.embed(x)[1]))


def test_learned_tokens_do_not_depend_on_the_photo_before_they_gather(x):
    model = create(learned_tokens=True)
    compressed, _ = model.embed(x)
    assert torch.equal(compressed[0], compressed[1])
    tokens = model.forward_tokens(x)
    assert not torch.allclose(tokens[0], tokens[1])
    assert model.budgets == (model.budget,)
    with pytest.raises(ValueError, match="no choice of budget"):
        model.forward_tokens(x, budget=2)


@pytest.mark.parametrize("stream", ["compressed", "lookup"])
def test_loss_on_one_stream(x, stream):
    model = create(streams=(stream,))
    compressed, lookup = model.forward_features(x)
    pooled = (compressed if stream == "compressed" else lookup).mean(dim=1)
    head = model.head if stream == "compressed" else model.head_lookup
    torch.testing.assert_close(model(x), head(pooled))
    assert torch.equal(model.forward_tokens(x), compressed if stream == "compressed" else lookup)
    assert model.get_classifier() == (head,)
    model.train()
    model.set_joint_training()
    assert len(model(x)) == 1
    other = "head_lookup" if stream == "compressed" else "head"
    assert not any(name.startswith(f"{other}.") for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"lookup_tokens": False},
        {"infusion": False},
        {"learned_tokens": True},
        {"streams": ("compressed",)},
        {"streams": ("lookup",)},
        {"learned_tokens": True, "infusion": False},
    ],
)
def test_every_weight_learns(x, switches):
    model = create(**switches).train()
    model(x).square().sum().backward()
    idle = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert idle == {name for name, weight in model.named_parameters() if not weight.requires_grad}
    # The norm of a stream that is not classified is not trained, nor a last infusion that is not read.
    assert all(
        name.startswith(("norm", "blocks.1.infuse", "blocks.1.norm_infuse", "blocks.1.mlp", "blocks.1.norm_mlp"))
        for name in idle
    ), idle


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"streams": ()}, 'name "compressed"'),
        ({"streams": ("other",)}, "other"),
        ({"lookup_tokens": False, "learned_tokens": True}, "never see the image"),
        ({"infusion": False, "streams": ("lookup",)}, "nothing to classify"),
    ],
)
def test_contradictions_are_refused(switches, message):
    with pytest.raises(ValueError, match=message):
        create(**switches)
