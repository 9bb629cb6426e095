"""What the tests of the trainers share."""

import pytest


@pytest.fixture
def quick_curves(monkeypatch):
    """Writes curves.png without drawing it, which takes most of the time of a two-step run."""
    _draw_none(monkeypatch)


@pytest.fixture(scope="module")
def quick_curves_in_module():
    """The same, for runs that all tests of a file share."""
    with pytest.MonkeyPatch.context() as patch:
        _draw_none(patch)
        yield


def _draw_none(patch):
    patch.setattr("train.progress.draw_curves", lambda log, image: image.write_bytes(b"curves"))
