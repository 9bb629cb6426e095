"""What the tests share: where the real photos are, if they are."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches a network; the hub's client says so at once instead

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path | None:
    """Folder of the real data sets: $VLCAP_DATA, or shared/data beside the checkout; None where there are none."""
    folder = Path(os.environ.get("VLCAP_DATA", REPOSITORY.parent / "shared" / "data"))
    return folder if folder.is_dir() else None
