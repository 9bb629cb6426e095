"""The demo's example photos: real ones, from the installed dependencies, with captions that are right."""

import json
from collections import Counter

import pytest
from huggingface_hub import ModelCard

from app.demo.answers import Author
from app.demo.example_photos import EXAMPLES, Example, shown_examples
from tests.support.demo_captioner import talking_captioner
from tests.support.demo_visitors import REPOSITORY
from tests.support.example_captions import RIGHT, Right, candidates
from vlcap.captioner import BUNDLED, Captioner
from vlcap.data.images import load_image


def test_each_is_there_with_its_source():
    assert [example for example, _ in shown_examples()] == list(EXAMPLES)
    assert candidates().keys() == RIGHT.keys() and all(example.source for example in EXAMPLES)
    assert Example("None", "gradio", "none.jpg", "nobody").path() is None
    photos = [load_image(path) for _, path in shown_examples()]
    assert all(min(photo.size) >= 224 and photo.mode == "RGB" for photo in photos)


def test_what_a_right_caption_is():
    cat = Right((frozenset({"cat", "kitten"}),), frozenset({"dog"}))
    assert cat.is_right("a cat, on a sofa .") and cat.is_right("a kitten.")
    assert not cat.is_right("a cattle") and not cat.is_right("a cat and a dog")


@pytest.mark.slow
def test_captions_of_those_shown_are_right_and_of_the_others_wrong():
    """With a better captioner this fails: then add to `EXAMPLES` what it names rightly."""
    captioner = Captioner.from_pretrained()
    captions = {name: captioner.caption([path])[0] for name, path in candidates().items()}
    right = {name for name, caption in captions.items() if RIGHT[name].is_right(caption)}
    assert right == {example.name for example in EXAMPLES}, captions


@pytest.mark.slow
def test_one_of_them_shows_what_more_tokens_change():
    captioner = Captioner.from_pretrained()
    fewest, most = min(captioner.budgets), max(captioner.budgets)
    photos = [path for _, path in shown_examples()]
    assert captioner.caption(photos, budget=fewest) != captioner.caption(photos, budget=most)


@pytest.mark.slow
def test_the_page_tells_the_cards_figures():
    """The card's, which are those of the judged captions; and none of another captioner."""
    judged = ModelCard.load(BUNDLED / "README.md").data.get("judged")
    entries = json.loads((REPOSITORY / "docs" / "by_eye.json").read_text(encoding="utf-8"))
    counts = Counter(entry["now"]["verdict"] for entry in entries)
    assert judged == {"photos": len(entries), **{verdict: counts[verdict] for verdict in ("right", "partly", "wrong")}}
    told = Author(Captioner.from_pretrained()).judged
    assert all(f"{number}" in told for number in judged.values())
    assert Author(talking_captioner(name="bundled")).judged == ""
