"""Reading ahead: in order, bounded, errors in their place."""

import threading
import time
from pathlib import Path

import pytest

from vlcap.data.images import ImageError
from vlcap.data.reading import read_ahead

PATHS = [Path(str(number)) for number in range(30)]


def test_in_order_with_errors_in_their_place():
    def read(path):
        number = int(path.name)
        time.sleep(0.01 if number % 3 == 0 else 0)  # some take longer than those after them
        if number == 7:
            raise ImageError("7: no")
        return number

    found = list(read_ahead(PATHS, read, ahead=8, workers=4))
    assert [path for path, _ in found] == PATHS
    assert str(found[7][1]) == "7: no"
    assert [value for number, (_, value) in enumerate(found) if number != 7] == [n for n in range(30) if n != 7]


def test_never_further_ahead_than_asked():
    started = []
    reading = read_ahead(PATHS, started.append, ahead=4, workers=2)
    for taken in range(1, 11):
        next(reading)
        time.sleep(0.01)
        assert len(started) <= taken + 4
    reading.close()
    assert len(started) < len(PATHS)


def test_reads_while_the_reader_works():
    """The second is read before it is asked for."""
    second = threading.Event()
    reading = read_ahead(PATHS[:2], lambda path: second.set() if path.name == "1" else None, ahead=2)
    next(reading)
    assert second.wait(timeout=10)


def test_other_errors_come_through():
    def read(path):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(read_ahead(PATHS, read, ahead=2))
