"""Thirty visitors at once, for 10 seconds; VLCAP_LOAD_SECONDS=60 makes it a minute."""

import logging
import os
import threading
import time
from collections import Counter

import psutil
import pytest
from demo_captioner import photo, talking_captioner
from gradio_client import Client, handle_file
from gradio_client.utils import QueueError

from app.demo import start

CLIENTS = 30
SECONDS = float(os.environ.get("VLCAP_LOAD_SECONDS", 10))


@pytest.mark.timeout(300)
def test_everyone_is_answered(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    captioner = talking_captioner()
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        photo(number).save(path)
    expected = {(path, side): captioner.caption([path], budget=side)[0] for path in paths for side in (2, 3)}
    page = start(captioner)
    answers, wrong, levels = Counter(), [], []
    ready, end = threading.Barrier(CLIENTS + 1, timeout=120), threading.Event()

    def visit(number: int) -> None:
        with making:  # all at once would only make the test longer
            client = Client(page.local_url, verbose=False)
        ready.wait()
        while not end.is_set():
            path, side = paths[number % len(paths)], 2 + number % 2
            try:
                text, *_ = client.predict(handle_file(path), side, api_name="/caption")
                answers["caption"] += 1
                if text != expected[path, side]:
                    wrong.append((path.name, side, text))
            except QueueError as error:
                assert "full" in str(error)
                answers["queue full"] += 1
                time.sleep(0.2)
            except Exception as error:
                wrong.append(repr(error))
        client.close()

    making = threading.Lock()
    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(CLIENTS)]
    with caplog.at_level(logging.WARNING):
        for visitor in visitors:
            visitor.start()
        ready.wait()
        process, stop = psutil.Process(), time.monotonic() + SECONDS
        while time.monotonic() < stop:
            time.sleep(SECONDS / 20)
            levels.append(process.memory_info().rss / 1024**2)
        end.set()
        for visitor in visitors:
            visitor.join(60)
    page.close(verbose=False)
    with capfd.disabled():
        memory = f"{levels[0]:.0f} MB at first, {levels[-1]:.0f} at last"
        print(f"\n{SECONDS:g} s, {CLIENTS} clients: {dict(answers)}; {memory}")
    assert not any(visitor.is_alive() for visitor in visitors)
    assert wrong == []
    assert answers["caption"] and answers["queue full"]
    half = len(levels) // 2  # the first half warms up: threads, caches
    assert max(levels[half:]) < levels[half] + 100
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err + printed.out
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
