"""Ours against peers: `vlcap bench peers`, whose peers have the size of the published captioners, and `onnx`."""

from functools import partial

import pytest
import torch
from transformers import GPT2Config, ViTConfig

from encoders.cost import count_gflops_of
from vlcap.bench import benchmark, captioners, machine, onnx_runtime, peers
from vlcap.captioner import BUNDLED
from vlcap.engines.pytorch import TorchEngine
from vlcap.model.build import build_model
from vlcap.model.encoder import Encoder
from vlcap.model.tokenizer import load_tokenizer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "millions"),  # as published; BLIP's 247 M count its embedding, which is also its head, twice
    [(peers.vit_gpt2, 239.2), (peers.blip, 247.4 - 30524 * 768 / 1e6), (peers.git, 176.6), (peers.smolvlm, 256.5)],
    ids=["vit-gpt2", "BLIP-base", "GIT-base", "SmolVLM-256M"],
)
def test_peers_are_as_large_as_the_published_models(build, millions):
    with torch.device("meta"):
        model = build()
    assert sum(weight.numel() for weight in model.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_flops_of_a_call_include_attention():
    q = torch.randn(1, 1, 10, 8)
    counted = count_gflops_of(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert counted * 1e9 == 2 * 2 * 10 * 10 * 8


SMALL = "lookupvit_test_patch8_48"


@pytest.fixture(scope="module")
def ours():
    """A small captioner in place of ours, and its graphs: exporting them takes the longest."""
    encoder = Encoder.create(SMALL, depth=1)
    model = build_model(encoder, vocab_size=900, width=32, layers=1, heads=2, max_length=peers.PIECES + 1).eval()
    return model, onnx_runtime.export_all(TorchEngine(model, load_tokenizer(BUNDLED)), sides=[5])


@pytest.fixture
def small(ours, monkeypatch):
    """Small models in place of ours and of the peers."""
    model, exported = ours
    monkeypatch.setattr(peers, "captioner", lambda: model)
    for module in (captioners, onnx_runtime):
        monkeypatch.setattr(module, "export_all", lambda engine, sides: exported)
    vit = partial(ViTConfig, image_size=48, patch_size=8, hidden_size=96, num_hidden_layers=2)
    monkeypatch.setattr(peers, "ViTConfig", vit)
    monkeypatch.setattr(peers, "GPT2Config", partial(GPT2Config, n_embd=96, n_layer=2))


@pytest.mark.slow
def test_each_peer_is_compared_with_ours(small, monkeypatch):
    inputs = partial(captioners._photos, 48)
    tiny = [captioners.Peer(f"tiny {beams}", peers.vit_gpt2, beams, inputs) for beams in (1, 3)]
    monkeypatch.setattr(captioners, "PEERS", tiny)
    monkeypatch.setattr(captioners, "SIDE", 48)
    rows = benchmark.run("peers", quick=True)
    assert [(row["against"], row["beams"]) for row in rows] == [("tiny 1", 1)] * 4 + [("tiny 3", 3)] * 4
    for row in rows:
        assert row["ms"] > 0 and row["gflops"] > 0
        assert (row["times_faster"] == row["of_flop_ratio"] == 1) == (row["what"] == row["against"])


@pytest.mark.slow
def test_onnx_runtime_compares_with_pytorch(small, monkeypatch):
    monkeypatch.setattr(peers, "VIT", SMALL)
    monkeypatch.setattr(machine, "memory_bandwidth", lambda: 10.0)
    rows = benchmark.run("onnx", quick=True)
    assert {row["task"] for row in rows} == {"encoder, batch 8", "encoder, batch 1", "whole caption", "greedy decoding"}
    assert all(row["ms"] > 0 and (row["times_faster"] == 1) == (row["what"] == row["against"]) for row in rows)
    assert [row["what"] for row in rows if row["of_limit"]] == ["generate", "LookupViT-B/16 5x5"]
