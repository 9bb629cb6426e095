"""The bundled captioner: small, complete, and as good as its card says."""

import pytest

from vlcap import Captioner
from vlcap.captioner import BUNDLED
from vlcap.data.captions import read_captions
from vlcap.evaluation.evaluate import predict
from vlcap.evaluation.metrics import score


@pytest.fixture(scope="module")
def bundled():
    return Captioner.from_pretrained()


def test_small_and_safe():
    files = {path.name: path.stat().st_size for path in BUNDLED.iterdir()}
    assert sum(files.values()) <= 45_000_000
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= files.keys()
    assert all(name.endswith((".md", ".json", ".safetensors")) for name in files)


@pytest.mark.slow
def test_serves_its_budgets(bundled):
    assert bundled.budgets == [3, 5, 7]
    assert bundled.default_budget in bundled.budgets


@pytest.mark.slow
@pytest.mark.parametrize(("data", "at_least"), [("flickr8k-144", 0.33), ("coco-6k-144", 0.58)])
def test_captions_real_photos(bundled, real_data, data, at_least):
    """100 validation photos, greedy: 0.364 and 0.624 as shipped, with 98 and 96 distinct captions.

    Fewer photos make smaller idf: these are not the card's figures, which `vlcap evaluate` measures on whole splits.
    """
    if real_data is None:
        pytest.skip("real photos not present")
    captions = read_captions(real_data / data, "val", limit=100)
    predictions = {image_id: caption.text for image_id, caption in predict(bundled, captions, num_beams=1)}
    assert score(predictions, captions.references(), metrics=["CIDEr"]).values["CIDEr"] > at_least
    assert len(set(predictions.values())) > 80
