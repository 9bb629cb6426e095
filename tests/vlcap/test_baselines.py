"""The human score and the score of a constant caption, on real photos against known values and on drawn ones."""

import pytest

from tests.support import drawings
from vlcap.data.captions import read_captions
from vlcap.evaluation.baselines import score_constant, score_human, usual_caption
from vlcap.evaluation.metrics import MetricsError, score


@pytest.mark.parametrize(
    ("name", "text", "human", "constant"),
    [
        ("flickr8k-144", "a dog is running through the grass .", 0.7886, 0.094),
        ("coco-6k-144", "a man sitting on a bench next to a table", 0.9483, 0.089),
    ],
)
@pytest.mark.slow
def test_real_data(real_data, name, text, human, constant):
    if real_data is None:
        pytest.skip("real data not present")
    captions = read_captions(real_data / name, "test")
    assert score_human(captions).values["CIDEr"] == pytest.approx(human, abs=5e-5)
    assert score_constant(captions, text).values["CIDEr"] == pytest.approx(constant, abs=5e-4)


@pytest.mark.slow
def test_a_person_is_scored_against_the_others(captioned_folder):
    captions = read_captions(captioned_folder, "val")
    references = captions.references()
    first = {image_id: texts[0] for image_id, texts in references.items()}
    assert score_human(captions) == score(first, {image_id: texts[1:] for image_id, texts in references.items()})


def test_the_usual_caption(captioned_folder):
    captions = read_captions(captioned_folder, "train")
    texts = [text for own in captions.captions for text in own]
    assert texts.count(usual_caption(captions)) == max(map(texts.count, texts))


def test_one_caption_leaves_nothing_to_compare_with(tmp_path, monkeypatch):
    monkeypatch.setattr(drawings, "describe", lambda number: ["a lonely caption"])
    folder = drawings.write_coco_folder(tmp_path / "data", {"val": 3})
    with pytest.raises(MetricsError, match=r"has one caption \(3 such\)"):
        score_human(read_captions(folder, "val"))
