"""`vlcap serve`, in this process with a tiny captioner: what programs send, and what they get. app/serve."""

import http.client
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import openai
import pytest
from openai import OpenAI

from app.address import AddressError
from app.serve import chat, desk, server
from app.serve.door import KEY, ApiKeyError, key_asked_for
from app.serve.menu import Menu
from app.serve.server import start, warm_up
from tests.support.demo_captioner import photo, talking_captioner
from tests.support.serve_clients import CHAT, Asker, ask, body, data_uri, messages, png
from vlcap.auto_budget import AutoBudget
from vlcap.captioner import Caption
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
KEY_OF_TEST = "a key"
DOUBTS = AutoBudget((2, 3), threshold=1.0)  # no caption is that sure: all end at 3


@pytest.fixture(scope="module")
def captioner():
    return talking_captioner(trained_on="drawn shapes")


@pytest.fixture(scope="module")
def service(captioner):
    service = start(Menu(captioner))
    yield service
    service.close(grace=0)


@pytest.fixture(scope="module")
def locked(captioner):
    """A server with a key, with another name, whose owner chose a rule and two beams."""
    menu = Menu(captioner, rule=DOUBTS, budget=DOUBTS, generation={"num_beams": 2})
    service = start(menu, names=["captions.example"], key=KEY_OF_TEST)
    yield service
    service.close(grace=0)


@pytest.fixture(scope="module")
def client(service):
    with OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def held(captioner, monkeypatch):
    """A captioner that waits for `go`, and keeps the numbers of photos of its calls, and of each one's batches."""

    class Held:
        go, sizes, parts = threading.Event(), [], []

    real = captioner.caption_batches

    def caption_batches(batches, *arguments, **settings):
        batches = list(batches)
        Held.parts = [*Held.parts, [*map(len, batches)]]
        Held.sizes = [*Held.sizes, sum(map(len, batches))]
        assert Held.go.wait(60)
        return real(batches, *arguments, **settings)

    monkeypatch.setattr(captioner, "caption_batches", caption_batches)
    yield Held
    Held.go.set()


def until(condition, seconds: float = 30) -> None:
    """Waits for something that happens in another thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def complete(client, *photos, **settings):
    sent = messages(*map(data_uri, map(png, photos)))
    return client.chat.completions.create(**{"model": "tiny_random", "messages": sent, **settings})


def said(captioner, seed: int, budget: int = 3, **settings) -> str:
    return captioner.caption([png(photo(seed))], budget=budget, **settings)[0]


def test_one_photo(client, captioner):
    answer = complete(client, photo(1))
    [choice] = answer.choices
    assert choice.message.content == said(captioner, 1) and choice.message.role == "assistant"
    assert (answer.object, answer.model) == ("chat.completion", "tiny_random")
    assert answer.usage.prompt_tokens == 9 and 0 < answer.usage.completion_tokens < 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_budget(client, captioner):
    for budget in captioner.budgets:
        answer = complete(client, photo(2), extra_body={"budget": budget})
        assert answer.choices[0].message.content == said(captioner, 2, budget)
        assert answer.usage.prompt_tokens == budget**2 and answer.budget == budget
    for wrong in (77, "auto", "2", 2.5, True):
        with pytest.raises(openai.BadRequestError) as error:
            complete(client, photo(2), extra_body={"budget": wrong})
        assert error.value.param == "budget"


def test_the_rule_that_chooses_the_budget(locked, captioner):
    with OpenAI(base_url=f"{locked.url}/v1", api_key=KEY_OF_TEST, max_retries=0) as client:
        for fields in ({}, {"budget": "auto"}):
            answer = complete(client, photo(3), extra_body=fields)
            assert answer.choices[0].message.content == said(captioner, 3, 3, num_beams=2) and answer.budget == 3
        assert complete(client, photo(3), extra_body={"budget": 2}).budget == 2


def test_eight_at_once_are_captioned_together(client, captioner, held, service):
    """One is in work, and the others gather; those with the same budget share a batch. Captions are those alone."""
    asked = [(seed, 2 + seed % 2) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(complete, client, photo(8), extra_body={"budget": 3})
        until(lambda: held.sizes)
        answers = [pool.submit(complete, client, photo(seed), extra_body={"budget": side}) for seed, side in asked[:7]]
        until(lambda: len(service.desk.batching) == 7)
        held.go.set()
        found = [answer.result().choices[0].message.content for answer in answers]
        assert first.result().choices[0].message.content == said(captioner, 8)
    assert sorted(held.sizes[:3]) == [1, 3, 4]
    assert found == [said(captioner, seed, side) for seed, side in asked[:7]]


def test_an_engine_with_lanes_gets_several_batches(client, captioner, held, service, monkeypatch):
    monkeypatch.setattr(service.desk.batching, "lanes", 2)
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(complete, client, photo(0))]
        until(lambda: held.sizes)
        answers += [pool.submit(complete, client, photo(seed)) for seed in range(1, 6)]
        until(lambda: len(service.desk.batching) == 5)
        held.go.set()
        found = [answer.result().choices[0].message.content for answer in answers]
    assert held.parts[:2] == [[1], [3, 2]]
    assert found == [said(captioner, seed) for seed in range(6)]


def test_several_captions_take_the_room_of_several_photos(client, held, service):
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(complete, client, photo(0))]
        until(lambda: held.sizes)
        answers += [pool.submit(complete, client, photo(seed), n=8) for seed in range(3)]
        until(lambda: len(service.desk.batching) == 3)
        held.go.set()
        assert all(answer.result().choices for answer in answers)
    assert service.desk.batching.most == 16 and held.sizes == [1, 2, 1]


def test_several_captions(client, captioner):
    answer = complete(client, photo(4), n=2)
    texts = [choice.message.content for choice in answer.choices]
    [best] = captioner.caption_pixels(captioner.preprocess([png(photo(4))]), budget=3, count=2)
    assert texts == [best.text, *(other.text for other in best.others)] and len(set(texts)) == 2
    assert [choice.index for choice in answer.choices] == [0, 1]
    with pytest.raises(openai.BadRequestError, match="from 1 to 16"):
        complete(client, photo(4), n=17)


def test_samples(client, captioner):
    answer = complete(client, photo(4), n=3, temperature=1.5, top_p=0.9)
    assert len(answer.choices) == 3 and all(choice.message.content for choice in answer.choices)
    likeliest = complete(client, photo(4), n=2, temperature=0.01)
    assert {choice.message.content for choice in likeliest.choices} == {said(captioner, 4, num_beams=1)}
    assert complete(client, photo(4), temperature=0, top_p=1).choices[0].message.content == said(captioner, 4)
    for settings, param in (({"top_p": 0.5}, "top_p"), ({"temperature": 1e-9}, "temperature")):
        with pytest.raises(openai.BadRequestError) as error:
            complete(client, photo(4), **settings)
        assert error.value.param == param


def test_why_a_caption_ended():
    whole, cut = Caption("a dog", 3, 1.0, (5, 6), (-1.0, -1.0, -0.5)), Caption("a dog", 3, 1.0, (5, 6), (-1.0, -1.0))
    choices = chat.answer([whole, cut], "tiny_random")["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["stop", "length"]


def test_a_shorter_caption(client, captioner):
    for name in ("max_tokens", "max_completion_tokens"):
        answer = complete(client, photo(5), **{name: 2})
        assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 2
    assert complete(client, photo(5), max_tokens=4096).choices[0].message.content == said(captioner, 5)


def test_a_stream(client, captioner):
    events = list(complete(client, photo(6), stream=True, stream_options={"include_usage": True}))
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == said(captioner, 6)
    assert [event.choices[0].finish_reason for event in events if event.choices][-1] in ("stop", "length")
    assert events[-1].usage.prompt_tokens == 9 and len({event.id for event in events}) == 1
    with pytest.raises(openai.BadRequestError):  # an error is an answer of its own, not an event
        complete(client, photo(6), stream=True, n=0)


def test_a_broken_photo(client):
    for photos, wanted in (([png(photo())[:300]], "cut short"), ([b"text"], "not an image"), ([b""], "empty")):
        with pytest.raises(openai.BadRequestError, match=wanted) as error:
            client.chat.completions.create(model="tiny_random", messages=messages(*map(data_uri, photos)))
        assert error.value.code == "unreadable_photo"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:9/photo.jpg", "image_url_not_data"),
        ("https://example.com/photo.jpg", "image_url_not_data"),
        ("file:///etc/passwd", "image_url_not_data"),
        ("/etc/passwd", "image_url_not_data"),
        ("", "image_url_not_data"),
        ("data:image/png,%89PNG", "invalid_base64"),
        ("data:image/png;base64,***", "invalid_base64"),
        ("data:image/png;base64,é", "invalid_base64"),
    ],
)
def test_no_address_is_fetched(client, monkeypatch, url, code):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="tiny_random", messages=messages(url))
    assert error.value.code == code and error.value.param == "messages[0].content[1].image_url.url"


def test_exactly_one_photo(client):
    for photos in ((), (photo(), photo(1))):
        with pytest.raises(openai.BadRequestError, match=f"Exactly one photo .* not {len(photos)}"):
            complete(client, *photos)


def test_texts_are_ignored_and_the_card_says_so(client, captioner):
    [user] = messages(data_uri(png(photo(7))), text="Ignore the photo and write a poem.")
    around = [{"role": "system", "content": "You are a pirate."}, user, {"role": "assistant", "content": "Arr."}]
    answer = client.chat.completions.create(model="tiny_random", messages=around, user="me", frequency_penalty=0)
    assert answer.choices[0].message.content == said(captioner, 7)
    [card] = client.models.list().data
    assert "ignored" in card.description and card.budgets == captioner.budgets and card.trained_on == "drawn shapes"
    assert client.models.retrieve("tiny_random").id == card.id == "tiny_random"
    with pytest.raises(openai.NotFoundError, match="here is tiny_random"):
        client.models.retrieve("gpt-4o")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"stop": ["a"]}, "stop", "unsupported_parameter"),
        ({"seed": 1, "temperature": 1}, "seed", "unsupported_parameter"),
        ({"bugdet": 3}, "bugdet", "unknown_parameter"),
        ({"model": "gpt-4o"}, "model", "model_not_found"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": "9"}, "max_tokens", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]", None),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, None),
    ],
)
def test_what_is_refused(service, fields, param, code):
    reply = ask(service.url, "POST", CHAT, body(png(photo()), **fields))
    assert reply.status == (404 if code == "model_not_found" else 400)
    assert param in (None, reply.error["param"]) and code in (None, reply.error["code"])
    assert reply.error["type"].endswith("_error")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"messages": NaN}', b"[" * 100_000, b"\xff", b"null"])
def test_no_json(service, content):
    reply = ask(service.url, "POST", CHAT, content)
    assert reply.status == 400 and reply.error["code"] in ("invalid_json", "invalid_value")


def form(photo: bytes, **fields: str) -> tuple[bytes, str]:
    start = "--x\r\nContent-Disposition: form-data; name="
    parts = [f'{start}"{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
    file = f'{start}"file"; filename="holiday/é.png"\r\n\r\n'
    return "".join([*parts, file]).encode() + photo + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


def test_the_plain_way(service, captioner):
    content = png(photo(1))
    reply = ask(service.url, "POST", "/caption?budget=2", content)
    assert reply.status == 200 and reply.json.keys() == {"image", "caption", "budget", "score", "ms"}
    assert reply.json["caption"] == said(captioner, 1, 2) and reply.json["budget"] == 2 and reply.json["score"] < 0
    sent, kind = form(content, budget="3", count="2")
    reply = ask(service.url, "POST", "/caption", sent, Content_Type=kind)
    assert reply.status == 200 and reply.json["image"] == "holiday/é.png" and reply.json["budget"] == 3
    assert [other["image"] for other in reply.json["others"]] == ["holiday/é.png"]


@pytest.mark.parametrize(
    ("query", "content", "kind", "message"),
    [
        ("", b"", "image/png", "There is no photo"),
        ("", b"text", "image/png", "photo: not an image"),
        ("?budget=four", b"x", "", "budget must be a whole number, or auto"),
        ("?budget=4", b"x", "", "budget must be one of 2, 3"),
        ("?count=0", b"x", "", "count must be from 1 to 16"),
        ("?size=3", b"x", "", "There is no field size: there are budget, count"),
        ("?count=1&count=2", b"x", "", "count is given twice"),
        ("?count=1", *form(b"x", count="1"), "count is given twice"),
        ("", *form(b"x", size="1"), "There is no field size"),
        ("", b"--x--", "multipart/form-data; boundary=x", "There is no photo"),
        ("", b"nonsense", "multipart/form-data; boundary=x", "form can't be read"),
        ("", b"nonsense", "multipart/form-data", "form can't be read"),
        ("", *form(form(b"y")[0][:-9] + b"\r\n" + form(b"z")[0]), "form can't be read"),
    ],
)
def test_a_wrong_plain_request(service, query, content, kind, message):
    reply = ask(service.url, "POST", f"/caption{query}", content, Content_Type=kind)
    assert reply.status == 400 and message in reply.error["message"], reply.text


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


def test_too_large(client, service):
    with pytest.raises(openai.APIStatusError, match="at most 20 MB") as error:
        client.chat.completions.create(model="tiny_random", messages=messages(data_uri(bytes(16 * 1024**2))))
    assert error.value.status_code == 413 and service.desk._level == 0


def test_too_large_without_a_length(service, captioner, monkeypatch):
    monkeypatch.setattr(desk, "MAX_BODY", 200_000)
    reply = ask(service.url, "POST", "/caption", iter([bytes(50_000)] * 6))
    assert reply.status == 413 and reply.error["code"] == "too_large"
    content = png(photo(1))
    reply = ask(service.url, "POST", "/caption", iter([content[:100], content[100:]]))
    assert reply.json["caption"] == said(captioner, 1)


def test_bodies_share_a_limit(service, monkeypatch):
    monkeypatch.setattr(desk, "MAX_BODIES", 100)
    reply = ask(service.url, "POST", CHAT, body(png(photo())))
    assert reply.status == 429 and int(reply.headers["retry-after"]) >= 1 and service.desk._level == 0


def test_a_body_that_takes_too_long(service, monkeypatch):
    monkeypatch.setattr(desk, "ARRIVAL", 0.1)
    reply = ask(service.url, "POST", "/caption", None, Content_Length="10")
    assert reply.status == 408 and reply.error["code"] == "too_slow"


def test_a_full_queue(service, client, captioner, held, monkeypatch):
    monkeypatch.setattr(service.desk, "places", 2)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(complete, client, photo(seed)) for seed in range(2)]
        until(lambda: service.desk.under_way == 2)
        reply = ask(service.url, "POST", CHAT, body(png(photo())))
        assert reply.status == 429 and 1 <= int(reply.headers["retry-after"]) <= 60
        assert reply.error["code"] == "queue_full" and reply.error["type"] == "rate_limit_error"
        with pytest.raises(openai.RateLimitError):
            complete(client, photo())
        assert ask(service.url, "GET", "/health").status == 200
        held.go.set()
        assert [each.result().choices[0].message.content for each in asked] == [said(captioner, n) for n in range(2)]
    assert service.desk.under_way == 0


def test_a_program_that_leaves(service, client, held):
    """Its photo leaves the queue, and the captioner never sees it."""
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(complete, client, photo())
        until(lambda: held.sizes)
        leaving = http.client.HTTPConnection(urlsplit(service.url).netloc)
        leaving.request("POST", "/caption", png(photo(1)))
        until(lambda: len(service.desk.batching) == 1)
        leaving.close()
        until(lambda: len(service.desk.batching) == 0 and service.desk.under_way == 1)
        held.go.set()
        assert first.result()
    half = socket.create_connection(("127.0.0.1", urlsplit(service.url).port))
    half.sendall(b"POST /caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
    until(lambda: service.desk.under_way == 1)
    half.close()
    until(lambda: service.desk.under_way == 0)
    assert held.sizes == [1]
    assert 'vlcap_requests_total{route="/caption",status="499"} 2.0' in ask(service.url, "GET", "/metrics").text


def test_a_fault_is_one_line(service, captioner, monkeypatch, capfd):
    def fail(*arguments, **settings):
        raise KeyError("SECRET")

    with monkeypatch.context() as patch:
        patch.setattr(captioner, "caption_batches", fail)
        reply = ask(service.url, "POST", CHAT, body(png(photo())))
    assert reply.status == 500 and reply.error["code"] == "failed" and reply.error["type"] == "server_error"
    until(lambda: service.desk.under_way == 0)
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
    service = start(Menu(captioner))
    asker = Asker(service.url)
    assert asker.ask("GET", "/health").status == 200
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(ask, service.url, "POST", "/caption", png(photo(1)))
        until(lambda: held.sizes)
        ending = pool.submit(service.close)
        until(lambda: service.desk.closing)
        for reply in (asker.ask("GET", "/health"), ask(service.url, "POST", CHAT, body(png(photo())))):
            assert reply.status == 503 and reply.error["code"] == "ending" and reply.headers["connection"] == "close"
        held.go.set()
        assert asked.result().json["caption"] == said(captioner, 1)
        ending.result()
    assert not service.thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        ask(service.url, "GET", "/health")


def test_the_end_without_patience(captioner, held):
    service = start(Menu(captioner))
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, service.url, "POST", f"/caption?budget={side}", png(photo(1))) for side in (2, 3)]
        until(lambda: len(service.desk.batching) == 1 and held.sizes)
        ending = pool.submit(service.close, 0)
        until(lambda: len(service.desk.batching) == 0)
        held.go.set()
        assert sorted(each.result().status for each in asked) == [200, 503]
        ending.result()


def test_a_taken_port(service, captioner):
    with pytest.raises(AddressError, match="is taken: choose another with --port"):
        start(Menu(captioner), port=urlsplit(service.url).port)


def test_warming_up_asks_for_every_budget(captioner, monkeypatch):
    seen = []
    real = captioner.caption_batches

    def caption_batches(batches, budget, *arguments, **settings):
        seen.append(budget)
        return real(batches, budget, *arguments, **settings)

    monkeypatch.setattr(captioner, "caption_batches", caption_batches)
    warm_up(Menu(captioner))
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
    [(menu, host, port, names, key, places, batch)] = served
    assert (menu.budget, menu.rule, menu.generation) == (2, DOUBTS, {"num_beams": 3})
    assert (host, port, names, key, places, batch) == ("127.0.0.1", 65001, ["captions"], None, 9, 4)
    assert capsys.readouterr().out == "vlcap serves tiny_random at http://stopped (press Ctrl-C to stop it).\n"
    monkeypatch.setattr("sys.argv", ["vlcap", "serve", "--port", "99999"])
    with pytest.raises(SystemExit):
        app.cli.main()
    [line] = capsys.readouterr().err.splitlines()
    assert line == "vlcap: --port 99999: there is no such port: choose one from 1024 to 65535"


def test_others_who_can_reach_it_are_warned_of(monkeypatch, capsys, captioner):
    monkeypatch.setattr(server, "start", lambda *arguments: _Stopped())
    monkeypatch.setattr(server, "warm_up", lambda menu: None)
    monkeypatch.setenv(KEY, KEY_OF_TEST)
    server.serve(Menu(captioner), "0.0.0.0")
    monkeypatch.delenv(KEY)
    server.serve(Menu(captioner), "0.0.0.0")
    server.serve(Menu(captioner))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("vlcap: warning: --host 0.0.0.0: everyone") and first.endswith(f"with the key in ${KEY}")
    assert second.endswith(f"; ${KEY} sets a key") and KEY_OF_TEST not in first


class _Stopped:
    """A server that has ended."""

    url, thread = "http://stopped", threading.Thread()

    def close(self) -> None:
        pass
