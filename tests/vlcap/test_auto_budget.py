"""`--budget auto`: the rule, its file, and the fit of its threshold."""

import json

import numpy as np
import pytest

from tests.support import drawings
from vlcap.auto_budget import FILE, AutoBudget, caption_batches, curve, fit, read_rule
from vlcap.captioner import CaptionerError
from vlcap.data.captions import read_captions
from vlcap.evaluation.auto import fit_rule
from vlcap.evaluation.evaluate import evaluate


def test_unsure_captions_are_read_again(captioner):
    pixels = captioner.preprocess([drawings.draw(number) for number in range(12)])
    low, high = (captioner.caption_pixels(pixels, budget) for budget in (2, 3))
    threshold = sorted(caption.score for caption in low)[5]
    [found] = caption_batches(captioner, [pixels], AutoBudget((2, 3), threshold))
    for caption, first, second in zip(found, low, high, strict=True):
        expected = first if first.score >= threshold else second
        assert (caption.text, caption.budget) == (expected.text, expected.budget)
    assert [caption.budget for caption in found].count(3) == 5


@pytest.mark.parametrize("threshold", [-1e9, 1.0])
def test_at_the_extremes_one_budget_is_taken(captioner, threshold):
    pixels = captioner.preprocess([drawings.draw(number) for number in range(4)])
    [found] = caption_batches(captioner, [pixels], AutoBudget((2, 3), threshold))
    assert {caption.budget for caption in found} == {2 if threshold < 0 else 3}


def test_the_curve_against_one_photo_at_a_time():
    random = np.random.default_rng(0)
    scores, quality = random.normal(size=(3, 40)), random.random((3, 40))
    costs = [1.0, 2.0, 4.0]
    points = curve(scores, quality, costs)
    assert points[0].shares == (1, 0, 0) or points[0].shares[0] > 0.9
    for point in points:
        ciders, spent = [], []
        for photo in range(40):
            row = next((row for row in (0, 1) if scores[row, photo] >= point.threshold), 2)
            ciders.append(quality[row, photo])
            spent.append(sum(costs[: row + 1]))
        assert point.CIDEr == pytest.approx(np.mean(ciders)) and point.gflops == pytest.approx(np.mean(spent))


def test_the_cheapest_of_the_good_is_taken():
    scores = np.array([[-1.0, -2.0, -3.0, -4.0], [-1.0, -1.0, -1.0, -1.0]])
    quality = np.array([[1.0, 1.0, 0.2, 0.1], [1.0, 0.9, 0.9, 0.9]])  # the unsure two are worth a second reading
    best = fit(curve(scores, quality, [1, 2]), quality.mean(axis=1))
    assert -3 < best.threshold <= -2 and best.shares == (0.5, 0.5) and best.gflops == 2
    assert fit(curve(scores, 1 - quality, [1, 2]), (1 - quality).mean(axis=1)).shares == (1, 0)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"budgets": [], "threshold": 0}',
        '{"budgets": [3, 2], "threshold": 0}',
        '{"budgets": [2, 2], "threshold": 0}',
        '{"budgets": [true], "threshold": 0}',
        '{"budgets": ["2"], "threshold": 0}',
        '{"budgets": [2, 3], "threshold": NaN}',
        '{"budgets": [2, 3], "threshold": "0"}',
        '{"budgets": [2, 3]}',
        '{"budgets": [2, 3], "threshold": 0, "fitted": 1}',
    ],
)
def test_a_damaged_rule_is_refused(tmp_path, content):
    with pytest.raises(CaptionerError, match="vlcap auto-budget writes one"):
        read_rule(tmp_path)
    (tmp_path / FILE).write_text(content)
    with pytest.raises(CaptionerError, match=FILE):
        read_rule(tmp_path)


@pytest.mark.slow
def test_fitted_and_evaluated(captioner, captioned_folder, tmp_path):
    captions = read_captions(captioned_folder, "val")
    found = fit_rule(captioner, captions, num_beams=1)
    (tmp_path / FILE).write_text(json.dumps(found.rule.to_dict()))
    rule = read_rule(tmp_path)
    assert (rule.budgets, rule.threshold) == (found.rule.budgets, found.rule.threshold)
    report = evaluate(captioner, captions, rule, metrics=["CIDEr"], num_beams=1)
    assert report["CIDEr"] == pytest.approx(rule.fitted["CIDEr"], abs=1e-6)
    assert report["budget"] == "auto" and sum(report["budgets"].values()) == pytest.approx(1)
    assert captioner.engine.gflops(2) <= report["encoder_gflops"] <= sum(map(captioner.engine.gflops, rule.budgets))
