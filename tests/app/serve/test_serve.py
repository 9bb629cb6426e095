"""`vlcap serve`: what programs ask for, and the captions that they get. app/serve."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai import OpenAI

from app.serve import chat
from tests.support.demo_captioner import photo
from tests.support.serve_clients import (
    CHAT,
    KEY_OF_TEST,
    ask,
    body,
    complete,
    data_uri,
    messages,
    png,
    said,
    until,
)
from vlcap.captioner import Caption


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
        until(lambda: len(service.intake.batching) == 7)
        held.go.set()
        found = [answer.result().choices[0].message.content for answer in answers]
        assert first.result().choices[0].message.content == said(captioner, 8)
    assert sorted(held.sizes[:3]) == [1, 3, 4]
    assert found == [said(captioner, seed, side) for seed, side in asked[:7]]


def test_an_engine_with_lanes_gets_several_batches(client, captioner, held, service, monkeypatch):
    monkeypatch.setattr(service.intake.batching, "lanes", 2)
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(complete, client, photo(0))]
        until(lambda: held.sizes)
        answers += [pool.submit(complete, client, photo(seed)) for seed in range(1, 6)]
        until(lambda: len(service.intake.batching) == 5)
        held.go.set()
        found = [answer.result().choices[0].message.content for answer in answers]
    assert held.parts[:2] == [[1], [3, 2]]
    assert found == [said(captioner, seed) for seed in range(6)]


def test_several_captions_take_the_room_of_several_photos(client, held, service):
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(complete, client, photo(0))]
        until(lambda: held.sizes)
        answers += [pool.submit(complete, client, photo(seed), n=8) for seed in range(3)]
        until(lambda: len(service.intake.batching) == 3)
        held.go.set()
        assert all(answer.result().choices for answer in answers)
    assert service.intake.batching.most == 16 and held.sizes == [1, 2, 1]


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
