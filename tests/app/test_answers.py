"""What the demo says of a caption: how sure it is, what the budgets cost, what differs between them."""

import math
import re

import pytest

from app.demo import answers
from app.demo.answers import Author, Kept
from app.demo.pictures import budgets_table, caption_card
from tests.support.demo_captioner import photo, talking_captioner
from vlcap.captioner import Caption


@pytest.fixture(scope="module")
def author() -> Author:
    return Author(talking_captioner())


def test_words_and_their_probabilities(author):
    answer = author.explain(photo(), author.caption(photo(), 3, {}))
    assert [word for word, _ in answer.words] == answer.caption.text.split()
    assert all(0 <= probability <= 1 for _, probability in answer.words)
    ending = sum(answer.caption.logprobs[len(answer.caption.ids) :])
    whole = math.prod(probability for _, probability in answer.words) * math.exp(ending)
    assert math.log(whole) == pytest.approx(sum(answer.caption.logprobs), rel=1e-3)
    assert answer.score == pytest.approx(sum(answer.caption.logprobs) / len(answer.caption.logprobs))
    card = caption_card(answer, author)
    assert "may be wrong" in card and f"{math.exp(answer.score):.0%} sure" in card


def table_of(author: Author, *texts: str, times: dict[int, float] | None = None) -> str:
    found = {side: Caption(text, side, 1.0) for side, text in zip(author.budgets, texts, strict=False)}
    return budgets_table(found, author, author.budgets[0], times)


def test_words_that_differ_are_marked(author):
    table = table_of(author, "a red <b> runs", "a blue <b> runs fast")
    assert "a <mark>red</mark> &lt;b&gt; runs<" in table
    assert "a <mark>blue</mark> &lt;b&gt; runs <mark>fast</mark>" in table
    same = table_of(author, "a dog", "a dog")
    assert "<mark>" not in same and "the caption is the same" in same
    assert "the caption is the same" not in table_of(author, "a dog") and "..." in table_of(author, "a dog")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        ([[0.01, 0.011, 0.012, 0.013], [0.02, 0.021, 0.022, 0.023]], {2: 11.5, 3: 21.5}),
        ([[0.02, 0.021, 0.022, 0.023], [0.01, 0.011, 0.012, 0.013]], {2: 21.5, 3: 11.5}),  # in either direction
        ([[0.01, 0.012, 0.03, 0.02], [0.011, 0.013, 0.02, 0.02]], {}),
    ],
)
def test_times_are_shown_if_they_differ_by_more_than_noise(monkeypatch, seconds, shown):
    author = Author(talking_captioner())
    monkeypatch.setattr(answers, "paired_times", lambda *given: dict(zip(author.budgets, seconds, strict=True)))
    found = author.times(photo())
    assert found == pytest.approx(shown)
    table = table_of(author, "a", "b", times=found)
    assert bool(re.search(r"\d ms", table)) == bool(shown) and ("within noise" in table) == (not shown)


def test_captions_are_kept_by_photo_model_and_settings():
    kept = Kept(most=2)
    kept.of(photo(0), "a", {"num_beams": 1})[3] = "caption"
    assert kept.of(photo(0), "a", {"num_beams": 1}) == {3: "caption"}
    assert kept.of(photo(0), "b", {"num_beams": 1}) == {} == kept.of(photo(1), "a", {"num_beams": 1})
    assert kept.of(photo(0), "a", {"num_beams": 1}) == {}  # the oldest gave way
