"""Servers in this process, with a tiny captioner: an open one, and one with a key."""

import threading

import pytest
from openai import OpenAI

from app.serve.model import ServedModel
from app.serve.server import start
from tests.support.demo_captioner import talking_captioner
from tests.support.serve_clients import DOUBTS, KEY_OF_TEST


@pytest.fixture(scope="package")
def captioner():
    return talking_captioner(trained_on="drawn shapes")


@pytest.fixture(scope="package")
def service(captioner):
    service = start(ServedModel(captioner))
    yield service
    service.close(grace=0)


@pytest.fixture(scope="package")
def locked(captioner):
    """A server with a key, with another name, whose owner chose a rule and two beams."""
    model = ServedModel(captioner, rule=DOUBTS, budget=DOUBTS, generation={"num_beams": 2})
    service = start(model, names=["captions.example"], key=KEY_OF_TEST)
    yield service
    service.close(grace=0)


@pytest.fixture(scope="package")
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
