"""The state of a run: it resumes exactly, from either source of batches, and refuses checkpoints that don't fit."""

import pytest
import torch

from train.batches import MapBatches, Reading, StreamBatches
from train.checkpoint import CheckpointError
from train.recipe import Recipe
from train.state import TrainState

RECIPE = Recipe(steps=6, batch_size=4, lr=0.1, warmup=0.5, ema_decay=0.5)


class Numbers(torch.utils.data.Dataset):
    """Ten rows of noise, different each time that they are read."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return torch.rand(3) + i


def source(**changes):
    return MapBatches(Numbers(), torch.stack, Reading(batch_size=4, **changes))


def state(recipe=RECIPE):
    torch.manual_seed(0)
    return TrainState(torch.nn.Linear(3, 1), source(), recipe, steps=6)


def train(run, stop):
    for batch in run.source.batches(run.step, stop):
        run.model(batch).mean().backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.advance()
    return run


def test_a_resumed_run_is_exact():
    whole, halves = train(state(), 6), state()
    halves.load_state_dict(train(state(), 2).state_dict())
    assert halves.step == 2
    train(halves, 6)
    for ours, theirs in ((halves.model, whole.model), (halves.averaged, whole.averaged)):
        assert all(torch.equal(weight, theirs.state_dict()[name]) for name, weight in ours.state_dict().items())
    assert halves.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]
    assert not torch.equal(whole.model.weight, state().model.weight)


def test_a_prolonged_run_keeps_its_warm_up():
    prolonged = TrainState(torch.nn.Linear(3, 1), source(), RECIPE, steps=12)
    assert prolonged.warmup == 6
    prolonged.load_state_dict(train(state(), 2).state_dict())
    assert prolonged.warmup == 3


@pytest.mark.parametrize("name", ["places", "warmup", "ema"])
def test_a_checkpoint_of_another_version_is_refused(name):
    saved = state().state_dict()
    del saved[name]
    with pytest.raises(CheckpointError, match=rf"another version wrote this checkpoint \(it has no {name}\)"):
        state().load_state_dict(saved)


def test_batches_start_at_any_step():
    whole = list(source().batches(0, 5))
    assert all(torch.equal(a, b) for a, b in zip(source().batches(3, 5), whole[3:], strict=True))
    halves = [list(source(rank=rank, world=2).batches(0, 5)) for rank in (0, 1)]
    assert all(torch.equal(torch.cat(parts), both) for *parts, both in zip(*halves, whole, strict=True))


def test_a_stream_needs_as_many_processes_as_before():
    photos = StreamBatches(None, None, Reading(batch_size=4, rank=1, world=2))
    photos.load_state_dict([{0: (0, 4)}, {0: (1, 2)}])
    assert photos.places == {0: (1, 2)}
    with pytest.raises(CheckpointError, match=r"3 processes have read the stream so far, now there are 2: start 3"):
        photos.load_state_dict([{}, {}, {}])
