"""`vlcap serve` in a process of its own: many programs at once, and its end.

    python -m tests.serve_load --seconds 60

is the long form, with the bundled captioner.
"""

import http.client
import os
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.serve_load import load
from tests.support.demo_captioner import photo, talking_captioner
from tests.support.serve_clients import ask, body, png, serving

pytestmark = pytest.mark.slow
PLACES = 8  # fewer than programs, so that some are told to come later


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    talking_captioner().save_pretrained(folder / "model")
    with serving(folder / "model", folder, "--requests", str(PLACES)) as server:
        yield server


def test_many_programs_at_once(server):
    found = load(server, 12, 3, [body(png(photo(seed)), budget=2 + seed % 2) for seed in range(4)])
    assert found.crowd.wrong == []
    assert found.crowd.answers.keys() <= {"answered", "429"} and found.crowd.answers["answered"] > 12
    assert found.together > 0 and found.alone > 0


def test_sigterm(server):
    """Must run last. A request that has begun is answered, a new one is refused, and the process ends with 0."""
    content = png(photo(1))
    wanted = ask(server.url, "POST", "/caption", content).json["caption"]
    begun = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    begun.putrequest("POST", "/caption")
    begun.putheader("Content-Length", str(len(content)))
    begun.endheaders(content[:100])
    while "vlcap_requests_under_way 1.0" not in ask(server.url, "GET", "/metrics").text:
        pass
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(server.end)
        while (reply := ask(server.url, "GET", "/health")).status == 200:
            pass
        assert reply.status == 503 and reply.error["code"] == "ending"
        begun.send(content[100:])
        answer = begun.getresponse()
        assert answer.status == 200 and wanted in answer.read().decode()
        assert ending.result() == 0
    log = server.log.read_text()
    assert "Traceback" not in log and len(log.splitlines()) == 2, log  # the address, and the line after ^C
    assert os.path.exists(server.temporary) and server.files() == []
