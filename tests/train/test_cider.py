"""The reward CIDEr-D equals pycocoevalcap's scorer."""

import random

import pytest
from pycocoevalcap.cider.cider import Cider

from tests.support import drawings
from train.cider import CiderD


def agree(references, captions):
    gts = {i: [" ".join(text) for text in texts] for i, texts in enumerate(references)}
    res = {i: [" ".join(text)] for i, text in enumerate(captions)}
    _, expected = Cider().compute_score(gts=gts, res=res)
    reward = CiderD(references)
    assert [reward.score(i, text) for i, text in enumerate(captions)] == pytest.approx(list(expected), abs=1e-9)
    return expected


def test_equals_pycocoevalcap_on_drawings():
    references = [[text.lower().split() for text in drawings.describe(n)] for n in range(40)]
    captions = [drawings.describe((n + n % 3) % 40)[n % 2].lower().split() for n in range(40)]
    captions[3], captions[4] = [], ["circle"]
    assert max(agree(references, captions)) > 1


@pytest.mark.slow
def test_equals_pycocoevalcap_on_human_captions(real_data):
    if real_data is None:
        pytest.skip("real data not present")
    from vlcap.data.captions import read_captions

    captions = read_captions(real_data / "coco-6k-144", "test", limit=300).captions
    words = [[text.lower().replace(".", "").split() for text in texts] for texts in captions]
    random.seed(0)
    agree([texts[1:] for texts in words], [texts[0] for texts in words])


def test_tokens_may_be_ids():
    corpus = [[[5, 6, 7, 1], [5, 6, 1]], [[8, 9, 1]], [[8, 7, 1]]]
    reward = CiderD(corpus)
    assert reward.score(0, [5, 6, 7, 1]) > reward.score(0, [5, 6, 7]) > reward.score(0, [8, 9, 1])
