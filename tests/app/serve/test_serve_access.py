"""`vlcap serve`: who may ask, how much, and what happens at its faults and at its end. app/serve."""

import http.client
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import openai
import pytest
from openai import OpenAI

from app.address import AddressError
from app.origin import Names, is_loopback
from app.serve import intake, server
from app.serve.middleware import KEY, ApiKeyError, key_asked_for
from app.serve.model import ServedModel
from app.serve.server import start, warm_up
from tests.support.demo_captioner import photo
from tests.support.serve_clients import (
    CHAT,
    DOUBTS,
    KEY_OF_TEST,
    Asker,
    ask,
    body,
    complete,
    data_uri,
    messages,
    png,
    said,
    until,
)
from vlcap.errors import CaptionerError

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
ADDRESSES = {
    CHAT: {"POST"},
    "/caption": {"POST"},
    "/v1/models": {"GET", "HEAD"},
    "/v1/models/tiny_random": {"GET", "HEAD"},
    "/health": {"GET", "HEAD"},
    "/metrics": {"GET", "HEAD"},
}


@pytest.mark.slow
def test_every_address_with_every_method(service):
    asker = Asker(service.url)
    for path, opened in ADDRESSES.items():
        for method in METHODS:
            reply = asker.ask(method, path)
            if method not in opened:
                assert reply.status == 405 and (method == "HEAD" or reply.error["code"] == "wrong_method")
                assert set(reply.headers["allow"].split(", ")) == opened
            elif method != "POST":
                assert reply.status == 200 and (method == "HEAD") == (not reply.text)
        assert asker.ask("GET", f"{path}/").status == 404
    for path in ("/", "/docs", "/redoc", "/openapi.json", "/v1", "/v1/completions", "/caption/1", "//caption"):
        reply = asker.ask("GET", path)
        assert reply.status == 404 and reply.error["code"] == "unknown_url"


def test_the_key(locked):
    chat, sent = ("POST", CHAT), body(png(photo()))
    for sent_key in (None, "Bearer wrong", KEY_OF_TEST, "Bearer é", f"Basic {KEY_OF_TEST}"):
        headers = {} if sent_key is None else {"Authorization": sent_key}
        for method, path in (chat, ("POST", "/caption"), ("GET", "/metrics"), ("GET", "/v1/models"), ("GET", "/none")):
            reply = ask(locked.url, method, path, sent if method == "POST" else None, **headers)
            assert reply.status == 401 and reply.headers["www-authenticate"] == "Bearer"
            assert reply.error["code"] == "invalid_api_key" and KEY_OF_TEST not in reply.text
    assert ask(locked.url, "GET", "/health").json == {"status": "ok", "model": "tiny_random"}
    assert ask(locked.url, *chat, sent, Authorization=f"Bearer {KEY_OF_TEST}").status == 200
    with (
        OpenAI(base_url=f"{locked.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="missing or wrong"),
    ):
        complete(client, photo())


def test_the_key_in_the_environment(monkeypatch):
    monkeypatch.setenv(KEY, "sk-1")
    assert key_asked_for() == "sk-1"
    for unusable in ("", " sk-1", "sk\n1", "schlüssel"):
        monkeypatch.setenv(KEY, unusable)
        with pytest.raises(ApiKeyError):
            key_asked_for()
    monkeypatch.delenv(KEY)
    assert key_asked_for() is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "captions.example"},  # another server's name
        {"Origin": "http://evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
    ],
)
def test_other_names_and_sites_are_refused(service, headers):
    for method, path in (("POST", CHAT), ("POST", "/caption"), ("GET", "/health"), ("GET", "/none")):
        if method == "GET" and "Origin" in headers:
            continue  # a browser keeps the answer from the page
        reply = ask(service.url, method, path, body(png(photo())) if method == "POST" else None, **headers)
        assert reply.status == 403 and reply.error["type"] == "permission_error"


def test_a_name_that_its_owner_gave(locked):
    assert ask(locked.url, "GET", "/health", Host="captions.example").status == 200


@pytest.mark.slow
@pytest.mark.parametrize("name", ["captions.example", "Captions.Example.", "captions.example:8000"])
def test_a_name_may_come_with_a_port(name):
    names = Names("0.0.0.0", [name])
    assert names.has("captions.example") and names.has("captions.example.:443") and names.has("[::1]:80")
    assert not names.has("") and not names.has("other.example") and not names.has("[")


def test_what_only_this_machine_reaches():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.0.0.9", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "captions.example")))


def test_too_large(client, service):
    with pytest.raises(openai.APIStatusError, match="at most 20 MB") as error:
        client.chat.completions.create(model="tiny_random", messages=messages(data_uri(bytes(16 * 1024**2))))
    assert error.value.status_code == 413 and service.intake._level == 0


def test_too_large_without_a_length(service, captioner, monkeypatch):
    monkeypatch.setattr(intake, "MAX_BODY", 200_000)
    reply = ask(service.url, "POST", "/caption", iter([bytes(50_000)] * 6))
    assert reply.status == 413 and reply.error["code"] == "too_large"
    content = png(photo(1))
    reply = ask(service.url, "POST", "/caption", iter([content[:100], content[100:]]))
    assert reply.json["caption"] == said(captioner, 1)


def test_bodies_share_a_limit(service, monkeypatch):
    monkeypatch.setattr(intake, "MAX_BODIES", 100)
    reply = ask(service.url, "POST", CHAT, body(png(photo())))
    assert reply.status == 429 and int(reply.headers["retry-after"]) >= 1 and service.intake._level == 0


def test_a_body_that_takes_too_long(service, monkeypatch):
    monkeypatch.setattr(intake, "ARRIVAL", 0.1)
    reply = ask(service.url, "POST", "/caption", None, Content_Length="10")
    assert reply.status == 408 and reply.error["code"] == "too_slow"


def test_a_full_queue(service, client, captioner, held, monkeypatch):
    monkeypatch.setattr(service.intake, "places", 2)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(complete, client, photo(seed)) for seed in range(2)]
        until(lambda: service.intake.under_way == 2)
        reply = ask(service.url, "POST", CHAT, body(png(photo())))
        assert reply.status == 429 and 1 <= int(reply.headers["retry-after"]) <= 60
        assert reply.error["code"] == "queue_full" and reply.error["type"] == "rate_limit_error"
        with pytest.raises(openai.RateLimitError):
            complete(client, photo())
        assert ask(service.url, "GET", "/health").status == 200
        held.go.set()
        assert [each.result().choices[0].message.content for each in asked] == [said(captioner, n) for n in range(2)]
    assert service.intake.under_way == 0


def test_a_program_that_leaves(service, client, held):
    """Its photo leaves the queue, and the captioner never sees it."""
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(complete, client, photo())
        until(lambda: held.sizes)
        leaving = http.client.HTTPConnection(urlsplit(service.url).netloc)
        leaving.request("POST", "/caption", png(photo(1)))
        until(lambda: len(service.intake.batching) == 1)
        leaving.close()
        until(lambda: len(service.intake.batching) == 0 and service.intake.under_way == 1)
        held.go.set()
        assert first.result()
    half = socket.create_connection(("127.0.0.1", urlsplit(service.url).port))
    half.sendall(b"POST /caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
    until(lambda: service.intake.under_way == 1)
    half.close()
    until(lambda: service.intake.under_way == 0)
    assert held.sizes == [1]
    assert 'vlcap_requests_total{route="/caption",status="499"} 2.0' in ask(service.url, "GET", "/metrics").text


def test_a_fault_is_one_line(service, captioner, monkeypatch, capfd):
    def fail(*arguments, **settings):
        raise KeyError("SECRET")

    with monkeypatch.context() as patch:
        patch.setattr(captioner, "caption_batches", fail)
        reply = ask(service.url, "POST", CHAT, body(png(photo())))
    assert reply.status == 500 and reply.error["code"] == "failed" and reply.error["type"] == "server_error"
    until(lambda: service.intake.under_way == 0)
    assert ask(service.url, "POST", CHAT, body(png(photo()))).status == 200
    said_there = "".join(capfd.readouterr())
    assert said_there.splitlines() == [f"vlcap: a request to {CHAT} failed (KeyError)"]


def test_what_the_captioner_cannot_do(service, captioner, monkeypatch):
    def refuse(*arguments, **settings):
        raise CaptionerError("several captions need a beam search")

    monkeypatch.setattr(captioner, "caption_batches", refuse)
    reply = ask(service.url, "POST", "/caption", png(photo()))
    assert reply.status == 400 and "several captions need a beam search" in reply.error["message"]


def test_the_metrics(service):
    ask(service.url, "POST", CHAT, body(png(photo())))
    ask(service.url, "POST", CHAT, body(b"text"))
    ask(service.url, "GET", "/no/such/address")
    reply = ask(service.url, "GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    values = dict(line.rsplit(" ", 1) for line in reply.text.splitlines() if not line.startswith("#"))
    for name in (
        f'vlcap_requests_total{{route="{CHAT}",status="200"}}',
        f'vlcap_requests_total{{route="{CHAT}",status="400"}}',
        'vlcap_requests_total{route="other",status="404"}',
        f'vlcap_request_seconds_count{{route="{CHAT}"}}',
        'vlcap_refused_total{reason="unreadable_photo"}',
        "vlcap_photos_captioned_total",
        "vlcap_batch_photos_count",
    ):
        assert float(values[name]) >= 1, name
    assert float(values["vlcap_queue_length"]) == float(values["vlcap_requests_under_way"]) == 0
    assert "/no/such" not in reply.text


def test_the_end(captioner, held):
    """What is under way is answered, what is new is refused, and then nobody listens."""
    service = start(ServedModel(captioner))
    asker = Asker(service.url)
    assert asker.ask("GET", "/health").status == 200
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(ask, service.url, "POST", "/caption", png(photo(1)))
        until(lambda: held.sizes)
        ending = pool.submit(service.close)
        until(lambda: service.intake.closing)
        for reply in (asker.ask("GET", "/health"), ask(service.url, "POST", CHAT, body(png(photo())))):
            assert reply.status == 503 and reply.error["code"] == "ending" and reply.headers["connection"] == "close"
        held.go.set()
        assert asked.result().json["caption"] == said(captioner, 1)
        ending.result()
    assert not service.thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        ask(service.url, "GET", "/health")


def test_the_end_without_patience(captioner, held):
    service = start(ServedModel(captioner))
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, service.url, "POST", f"/caption?budget={side}", png(photo(1))) for side in (2, 3)]
        until(lambda: len(service.intake.batching) == 1 and held.sizes)
        ending = pool.submit(service.close, 0)
        until(lambda: len(service.intake.batching) == 0)
        held.go.set()
        assert sorted(each.result().status for each in asked) == [200, 503]
        ending.result()


def test_a_taken_port(service, captioner):
    with pytest.raises(AddressError, match="is taken: choose another with --port"):
        start(ServedModel(captioner), port=urlsplit(service.url).port)


def test_warming_up_asks_for_every_budget(captioner, monkeypatch):
    seen = []
    real = captioner.caption_batches

    def caption_batches(batches, budget, *arguments, **settings):
        seen.append(budget)
        return real(batches, budget, *arguments, **settings)

    monkeypatch.setattr(captioner, "caption_batches", caption_batches)
    warm_up(ServedModel(captioner))
    assert set(seen) == set(captioner.budgets)


def test_the_command_line(monkeypatch, capsys, captioner):
    """Its options arrive; a wrong port is one line before anything is loaded."""
    import app.cli
    from app import loading

    served = []
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.setattr(loading, "load", lambda model, engine, **settings: captioner)
    monkeypatch.setattr(loading, "rule_of", lambda model: DOUBTS)
    monkeypatch.setattr(server, "start", lambda *arguments: served.append(arguments) or _Stopped())
    options = ["--budget", "2", "--beams", "3", "--name", "captions", "--requests", "9", "--batch-size", "4"]
    monkeypatch.setattr("sys.argv", ["vlcap", "serve", "--port", "65001", *options])
    with pytest.raises(SystemExit) as ended:
        app.cli.main()
    assert ended.value.code == 0
    [(model, host, port, names, key, places, batch)] = served
    assert (model.budget, model.rule, model.generation) == (2, DOUBTS, {"num_beams": 3})
    assert (host, port, names, key, places, batch) == ("127.0.0.1", 65001, ["captions"], None, 9, 4)
    assert capsys.readouterr().out == "vlcap serves tiny_random at http://stopped (press Ctrl-C to stop it).\n"
    monkeypatch.setattr("sys.argv", ["vlcap", "serve", "--port", "99999"])
    with pytest.raises(SystemExit):
        app.cli.main()
    [line] = capsys.readouterr().err.splitlines()
    assert line == "vlcap: --port 99999: there is no such port: choose one from 1024 to 65535"


def test_others_who_can_reach_it_are_warned_of(monkeypatch, capsys, captioner):
    monkeypatch.setattr(server, "start", lambda *arguments: _Stopped())
    monkeypatch.setattr(server, "warm_up", lambda model: None)
    monkeypatch.setenv(KEY, KEY_OF_TEST)
    server.serve(ServedModel(captioner), "0.0.0.0")
    monkeypatch.delenv(KEY)
    server.serve(ServedModel(captioner), "0.0.0.0")
    server.serve(ServedModel(captioner))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("vlcap: warning: --host 0.0.0.0: everyone") and first.endswith(f"with the key in ${KEY}")
    assert second.endswith(f"; ${KEY} sets a key") and KEY_OF_TEST not in first


class _Stopped:
    """A server that has ended."""

    url, thread = "http://stopped", threading.Thread()

    def close(self) -> None:
        pass
