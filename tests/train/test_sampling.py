"""Randomness as a function of seed and step, and the checkpoints that need nothing else."""

import random

import numpy as np
import pytest
import torch

from train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from train.sampling import SeededDataset, StepBatches, draw_budget


def test_batches_cover_each_epoch_once_and_start_anywhere():
    whole = list(StepBatches(images=10, batch_size=4, seed=1, start=0, stop=5))
    draws = [pair for batch in whole for pair in batch]
    assert sorted(index for _, index in draws[:10]) == sorted(index for _, index in draws[10:]) == list(range(10))
    assert [index for _, index in draws[:10]] != [index for _, index in draws[10:]]
    assert list(StepBatches(images=10, batch_size=4, seed=1, start=3, stop=5)) == whole[3:]
    halves = [list(StepBatches(10, 4, seed=1, start=0, stop=5, rank=rank, world=2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_a_draw_seeds_its_own_randomness():
    class Noise(torch.utils.data.Dataset):
        def __getitem__(self, i):
            return random.random(), np.random.rand(), torch.rand(1).item()

    noise = SeededDataset(Noise(), seed=3)
    assert noise[5, 0] == noise[5, 0]
    assert noise[5, 0] != noise[6, 0]
    assert len({round(value, 9) for value in noise[5, 0]}) == 3


def test_budgets_are_drawn_evenly_and_by_step():
    drawn = [draw_budget([3, 5, 7], seed=0, step=step) for step in range(3000)]
    assert all(900 < drawn.count(budget) < 1100 for budget in (3, 5, 7))
    assert drawn == [draw_budget([3, 5, 7], seed=0, step=step) for step in range(3000)]
    assert draw_budget(None, seed=0, step=0) is None


def test_a_damaged_checkpoint_is_skipped(tmp_path):
    for step in (1, 2, 3):
        newest = save_checkpoint(tmp_path, step, {"model": {"weight": torch.full((100,), float(step))}})
    assert [path.name[:13] for path in sorted(tmp_path.iterdir())] == ["step-00000002", "step-00000003"]
    whole = newest.read_bytes()
    flipped = whole.replace(torch.full((3,), 3.0).numpy().tobytes(), torch.full((3,), 4.0).numpy().tobytes(), 1)
    for damaged in (whole[:-200], flipped, b""):
        assert damaged != whole
        newest.write_bytes(damaged)
        with pytest.warns(UserWarning, match="step-00000003.*is damaged"):
            state = load_checkpoint(tmp_path)
        assert state["step"] == 2
        assert state["model"]["weight"][0] == 2
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step-00000003.*is damaged .*there is no other one"):
        load_checkpoint(tmp_path)
