"""`vlcap bench train` measures real runs of both trainers; no test asserts their speed."""

import pytest
import yaml

from train import benchmark
from train.loop import TrainingError

SMALL = {"encoder": "lookupvit_test_patch8_48", "budgets": [2], "batch_size": 8, "workers": 0}


@pytest.fixture
def few_photos(monkeypatch):
    """Which the runs read again and again."""
    monkeypatch.setattr(benchmark, "PHOTOS", 32)


@pytest.mark.slow
def test_rates_of_a_trainer(few_photos, tmp_path):
    """The captioner's, which needs an encoder and a cache, too; the other trainer runs below, and fails."""
    captioner = tmp_path / "captioner.yaml"
    captioner.write_text(
        yaml.safe_dump(
            {
                **SMALL,
                "encoder": "runs/elsewhere/encoder",
                "cache_views": 1,
                **{"vocab_size": 300, "width": 32, "layers": 1, "heads": 2},
            }
        )
    )
    [row] = benchmark.bench_training([str(captioner)], [2], batch_size=4, steps=22)
    assert (row["processes"], row["batch"]) == (2, 4) and row["photos_per_s"] > 0
    assert row["MB_per_process"] > 100  # PyTorch alone needs more


def test_rates_are_compared_with_each_recipes_first(monkeypatch):
    rates = iter([(10.0, 200.0), (15.0, 200.0), (4.0, 300.0), (2.0, 300.0)])
    monkeypatch.setattr(benchmark, "_measure", lambda *settings: next(rates))
    rows = benchmark.bench_training(["tiny-imagenet", "captioner-mini"], [1, 2])
    assert [row["times_faster"] for row in rows] == [1.0, 1.5, 1.0, 0.5]
    assert [row["processes"] for row in rows] == [1, 2, 1, 2]


@pytest.mark.slow
def test_a_run_that_fails_says_why(few_photos, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**SMALL, "encoder": "no_such_encoder"}))
    with pytest.raises(TrainingError, match="no_such_encoder"):
        benchmark.bench_training([str(recipe)], [1], steps=22)


@pytest.mark.slow
def test_cache_is_measured_against_memory(monkeypatch):
    monkeypatch.setattr(benchmark, "CACHED", "lookupvit_test_patch8_48")
    memory, cached = benchmark.bench_cache(rounds=2, batch_size=4)
    assert (memory["what"], cached["what"], memory["times_faster"]) == ("memory", "cache", 1.0)
    assert cached["ms"] > 0
