"""The arithmetic of the benchmark and the form of its results; no measurement is asserted."""

import json

import pytest
import torch
from typer.testing import CliRunner

from app.cli import app
from vlcap.bench import benchmark, gpu, machine, peers, timing
from vlcap.errors import CaptionerError
from vlcap.model.build import build_model
from vlcap.model.encoder import Encoder


def test_ratios_are_medians_of_rounds():
    times = {"theirs": [1.0, 2.0, 4.0], "ours": [0.5, 2.0, 1.0]}  # 2, 1 and 4 times faster
    theirs, ours = timing.compared(times, against="theirs")
    assert (theirs["times_faster"], ours["times_faster"], ours["ms"]) == (1, 2, 1000)


def test_functions_run_in_turn():
    order = []
    times = timing.paired_times({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b", "b", "a", "a", "b"]  # another first each time; the first pair is not counted
    assert all(len(own) == 2 for own in times.values())


def test_another_clock_is_read_before_and_after():
    seconds = iter([0.0, 9.0, 10.0, 13.0])
    assert timing.paired_times({"a": lambda: None}, rounds=1, clock=lambda: next(seconds)) == {"a": [3.0]}


def test_memory_is_the_most_held_at_once():
    def work():
        a = torch.empty(1_000_000)  # 4 MB
        b = a + 1
        del a
        c = b + 1
        return c.sum()

    assert benchmark.activation_megabytes(work) == pytest.approx(8, rel=0.01)


def test_weights_that_each_piece_reads():
    """16 D^2 per layer, without keys and values of the cross-attention, and the vocabulary."""
    model = build_model(Encoder.create("lookupvit_test_patch8_48"), vocab_size=50, width=32, layers=2, heads=2)
    matrices = 2 * (16 - 2) * 32**2 + 50 * 32
    norms_and_biases = 2 * (3 * 2 + 3 + 1 + 1 + 1 + 4 + 1) * 32 + 2 * 32
    assert peers.weight_bytes(model) == 4 * (matrices + norms_and_biases)


def test_no_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CaptionerError, match="needs a GPU"):
        gpu.bench_gpu()


@pytest.mark.slow
def test_the_gpus_table_on_a_cpu(monkeypatch):
    """Its code, with small models: the figures are for a GPU."""
    monkeypatch.setattr(peers, "BASE", "lookupvit_tiny_patch16_224")
    monkeypatch.setattr(peers, "VIT", "vit_tiny_patch16_224")
    small = build_model(Encoder.create("lookupvit_tiny_patch16_224"), vocab_size=50, width=32, layers=1, heads=2)
    monkeypatch.setattr(peers, "captioner", lambda: small)
    monkeypatch.setattr(peers, "vit_gpt2", lambda: small)
    rows = gpu.bench_gpu(quick=True, device="cpu")
    assert [row["what"] for row in rows if row["task"] == "encoder"][1:] == [
        f"LookupViT-B/16 {side}x{side}" for side in (3, 5, 7)
    ]
    assert sum(row["task"] == "caption" for row in rows) == 2 and all(row["ms"] > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["encoder", "sizes"])
def test_parts_compare_with_their_peer(monkeypatch, tmp_path, part):
    monkeypatch.setattr(peers, "BASE", "lookupvit_tiny_patch16_224")
    monkeypatch.setattr(peers, "VIT", "vit_tiny_patch16_224")
    monkeypatch.setattr(machine, "matrix_peak", lambda: 100.0)
    rows = benchmark.run(part, quick=True)
    assert all(row["ms"] > 0 and row["times_faster"] > 0 for row in rows)
    assert all(row["times_faster"] == 1 for row in rows if row["what"] == row["against"])
    assert any(row["what"] != row["against"] for row in rows)
    json.dumps(rows)
    if part == "sizes":
        assert all(row["activations_mb"] > 0.1 for row in rows)
        benchmark.plot_sizes(rows, tmp_path / "sizes.png")
        assert (tmp_path / "sizes.png").stat().st_size > 1000


def test_command_lists_its_parts():
    shown = CliRunner().invoke(app, ["bench", "--help"])
    assert all(part in shown.output for part in [*benchmark.PARTS, "train"])
