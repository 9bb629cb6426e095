"""The cheaper order of the products in cross-attention: the same function as the paper's order, at less cost.

Tolerances are relative to the largest magnitude: float64 to 1e-11, float32 to 1e-5, gradients ten times that.
test_lookupvit.py compares the model with the independent reference.
"""

from functools import partial

import pytest
import timm
import torch

from encoders.cost import count_gflops
from tests.support import noisy_lookupvit

SWITCHES = [{}, {"qkv_bias": False}, {"infusion": False}, {"learned_tokens": True}, {"lookup_tokens": False}]

create = partial(noisy_lookupvit.create, 0.1)


def results(model, pixels, budget, reassociate):
    """Both streams, the tokens, every gradient."""
    model.set_reassociation(reassociate)
    model.zero_grad()
    streams = model.forward_features(pixels, budget)
    sum(
        (stream * torch.linspace(-1, 1, stream[0].numel()).view_as(stream[0]).to(stream)).sum() for stream in streams
    ).backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    with torch.no_grad():
        tokens = model.forward_tokens(pixels, budget)
    return [*(stream.detach() for stream in streams), tokens], gradients


def counted(model, budget, reassociate, size=None):
    model.set_reassociation(reassociate)
    return count_gflops(model, budget, size)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize(
    ("batch", "size", "budget"), [(1, (48, 48), 1), (2, (48, 48), 3), (3, (72, 56), 3), (1, (56, 72), 3)]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)], ids=str)
def test_both_orders_are_one_function(switches, batch, size, budget, dtype, tolerance):
    if "learned_tokens" in switches:
        budget = 3  # they have only one budget
    model = create(**switches).to(dtype)
    pixels = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours, our_gradients = results(model, pixels, budget, reassociate=True)
    paper, paper_gradients = results(model, pixels, budget, reassociate=False)
    for tensor, expected in zip(ours, paper, strict=True):
        assert (tensor - expected).abs().max() < tolerance * expected.abs().max()
    assert our_gradients.keys() == paper_gradients.keys()
    largest = max(gradient.abs().max() for gradient in paper_gradients.values())
    for name, expected in paper_gradients.items():
        # A gradient that is only rounding error is measured on the scale of the others.
        scale = max(expected.abs().max(), 1e-3 * largest)
        assert (our_gradients[name] - expected).abs().max() < 10 * tolerance * scale, name


@pytest.mark.parametrize(("cheap", "budget"), [(True, 2), (False, 6)])
def test_the_cheaper_order_is_taken(cheap, budget):
    """With few compressed tokens neither projection of N tokens is applied; with as many as lookup tokens, both are."""
    model = create()
    called = []
    for block in model.blocks:
        block.gather.v.register_forward_hook(lambda *args: called.append("gather"))
        block.infuse.proj.register_forward_hook(lambda *args: called.append("infuse"))
    model.forward_features(torch.randn(1, 3, 48, 48), budget)
    assert called == ([] if cheap else ["gather", "infuse"] * len(model.blocks))


def test_dropped_attention_keeps_the_bias_exact():
    """With attention dropout, rows of A do not sum to one, so the bias of the value cannot be added afterwards."""
    model = create(attn_drop_rate=0.5).train()
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    found = []
    for reassociate in (True, False):
        model.set_reassociation(reassociate)
        torch.manual_seed(2)
        found.append(model.forward_features(pixels, 2))
    for ours, paper in zip(*found, strict=True):
        torch.testing.assert_close(ours, paper, rtol=1e-4, atol=1e-4)


def test_orders_share_their_weights():
    model = create()
    names = list(model.state_dict())
    model.set_reassociation(False)
    assert list(model.state_dict()) == names


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "at_most"), [(3, 8.6), (5, 13.8)])
def test_cost_of_the_base_model(budget, at_most):
    with torch.device("meta"):
        model = timm.create_model("lookupvit_base_patch16_224", num_classes=0)
    assert count_gflops(model, budget) <= at_most


@pytest.mark.slow
@pytest.mark.parametrize("size", [48, 96])
def test_never_dearer_than_the_papers_order(size):
    model = create()
    for budget in range(1, 7):
        assert counted(model, budget, True, size) <= counted(model, budget, False, size)


def test_lower_precision_keeps_its_dtype():
    model = create().to(torch.bfloat16)
    tokens = model.forward_tokens(torch.randn(1, 3, 48, 48, dtype=torch.bfloat16), 2)
    assert tokens.dtype == torch.bfloat16 and tokens.isfinite().all()
