"""What the tests of the trainers share."""

import pytest


@pytest.fixture
def quick_curves(monkeypatch):
    """Writes curves.png without drawing it, which takes most of the time of a two-step run."""
    monkeypatch.setattr("train.progress.draw_curves", lambda log, image: image.write_bytes(b"curves"))
