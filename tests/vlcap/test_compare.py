"""`vlcap compare`: its statistics against textbook values, its costs against a count by hand, its page in a browser."""

import csv
import json
import re
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from tests.support.command import vlcap
from vlcap.captioner import CaptionerError
from vlcap.data.captions import read_captions
from vlcap.evaluation.bootstrap import bootstrap, interval, paired_differences, pareto
from vlcap.evaluation.compare import Comparison, Contender, Row, compare, contender
from vlcap.evaluation.costs import count_decoder_gflops
from vlcap.evaluation.figures import plot_budgets, plot_sizes
from vlcap.evaluation.metrics import score
from vlcap.evaluation.page import examples, plot, write_all, write_page


@pytest.fixture(scope="module")
def captions(captioned_folder):
    return read_captions(captioned_folder, "val")


@pytest.fixture(scope="module")
def compared(captioner, captions, tmp_path_factory):
    """Two captioners, the second the first with another search, so that their rows differ."""
    out = tmp_path_factory.mktemp("compared")
    other = Contender("one token", captioner, (1,))
    return out, compare([contender("small & <plain>", captioner), other], captions, out, rounds=2, num_beams=2)


@pytest.mark.slow
def test_rows_are_what_evaluation_would_say(compared, captioner, captions):
    out, found = compared
    assert [(row.model, row.budget, row.tokens, row.trained_for) for row in found.rows] == [
        ("small & <plain>", 2, 4, True),
        ("small & <plain>", 3, 9, True),
        ("one token", 1, 1, False),
    ]
    photos = [captions.image(i) for i in range(len(captions))]
    for row in found.rows:
        texts = captioner.caption(photos, budget=row.budget, num_beams=2)
        kept = {entry["image_id"]: entry["caption"] for entry in json.loads((out / row.predictions).read_text())}
        assert kept == dict(zip(captions.image_ids, texts, strict=True))
        scores = score(kept, captions.references())
        assert (row.CIDEr, row.Bleu_4, row.ROUGE_L) == tuple(
            scores.values[name] for name in ("CIDEr", "Bleu_4", "ROUGE_L")
        )
        assert row.cider_low <= row.CIDEr <= row.cider_high and row.N == 24
        assert row.encoder_ms > 0 and row.decoder_ms > 0
        assert row.encoder_params + row.decoder_params == sum(p.numel() for p in captioner.model.parameters())
    assert found.rows[0].encoder_gflops < found.rows[1].encoder_gflops
    assert found.rows[0].decoder_gflops < found.rows[1].decoder_gflops
    assert found.setting["N"] == 24 and found.setting["generation"]["one token"]["num_beams"] == 2


@pytest.mark.slow
def test_kept_predictions_are_used_again(compared, captioner, captions, monkeypatch):
    out, found = compared
    asked = []
    predict = captioner.caption_pixels
    monkeypatch.setattr(captioner, "caption_pixels", lambda *a, **k: asked.append(k["budget"]) or predict(*a, **k))
    lost = out / found.rows[1].predictions
    lost.unlink()
    again = compare([contender("small & <plain>", captioner)], captions, out, rounds=1, num_beams=2)
    assert set(asked) == {3}
    assert [row.CIDEr for row in again.rows] == [row.CIDEr for row in found.rows[:2]]
    asked.clear()
    weight = captioner.model.decoder.transformer.wte.weight
    with torch.no_grad():
        weight[5] += 1
    try:  # another model is not taken for the one that was kept
        compare([contender("small & <plain>", captioner, [2])], captions, out, rounds=1, num_beams=2)
    finally:
        with torch.no_grad():
            weight[5] -= 1
    assert set(asked) == {2}


def test_other_image_sizes(captioner):
    """A contender for itself, with resampled positions; the captioner keeps its own."""
    own, larger = (contender("small", captioner, [2], image_size=size) for size in (captioner.pixels.size, 64))
    assert (own.name, own.family, own.captioner) == ("small", "small", captioner)
    assert (larger.name, larger.family) == ("small, 64 px", "small")
    assert captioner.pixels.size == 48 and captioner.model.encoder.model.pos_embed.shape[1] == 36
    assert larger.captioner.pixels.size == 64 and larger.captioner.model.encoder.model.pos_embed.shape[1] == 64
    assert larger.captioner.facts.grid == 8
    photo = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8).numpy()
    assert larger.captioner.encode(photo, 2).shape == (1, 4, 64)
    assert larger.captioner.encode(photo, 8).shape == (1, 64, 64)
    with pytest.raises(CaptionerError, match="small: 50 pixels are not a multiple of the patch size 8"):
        contender("small", captioner, image_size=50)


def line(model, family, size, budget, trained=True, cider=0.5):
    """A row of a comparison that nothing was measured for."""
    zeros = dict.fromkeys([field.name for field in fields(Row)], 0)
    own = {"model": model, "family": family, "image_size": size, "budget": budget, "tokens": budget**2, "N": 24}
    return Row(**zeros | own | {"trained_for": trained, "CIDEr": cider, "cider_high": cider})


def drawn(figure):
    """The lines of a figure, by their label: places, and CIDEr x 100."""
    found = figure.axes[0].get_legend_handles_labels()
    return {label: handle[0].get_xydata().tolist() for handle, label in zip(*found, strict=True)}


def test_lines_against_tokens_and_image_size():
    single = [line("alone", "alone", 48, 2, cider=0.4), line("alone", "alone", 48, 3, trained=False, cider=0.3)]
    multi = [line("multi", "multi", 48, budget) for budget in (3, 2)]
    resized = [line("multi, 64 px", "multi", 64, budget, trained=False) for budget in (2, 3)]
    vit = [line("vit", "vit", 48, 6), line("vit, 64 px", "vit", 64, 8, trained=False, cider=0.6)]
    found = Comparison([*single, *multi, *resized, *vit], [], {})
    budgets = plot_budgets(found)
    assert drawn(budgets) == {"alone": [[4, 40], [9, 30]], "multi": [[4, 50], [9, 50]]}
    hollow = [each for each in budgets.axes[0].lines if each.get_markerfacecolor() == "white"]
    assert [each.get_xydata().tolist() for each in hollow if len(each.get_xdata())] == [[[9, 30]]]
    assert drawn(plot_sizes(found)) == {
        "multi, 9 tokens": [[48, 50], [64, 50]],
        "multi, 4 tokens": [[48, 50], [64, 50]],
        "vit": [[48, 50], [64, 60]],
    }
    nothing_further = Comparison(multi, [], {})
    assert plot_budgets(nothing_further) is None and plot_sizes(nothing_further) is None


@pytest.mark.slow
def test_bootstrap_interval_is_the_textbooks():
    """Of a mean: close to plus and minus 1.96 standard errors, and the same for the same seed."""
    scores = np.random.default_rng(1).gamma(2.0, size=(2, 400))
    means = bootstrap(scores, draws=4000, seed=0)
    assert np.array_equal(means, bootstrap(scores, draws=4000, seed=0))
    for row, mine in zip(scores, means.T, strict=True):
        error = 1.96 * row.std(ddof=1) / 20
        assert interval(mine) == pytest.approx((row.mean() - error, row.mean() + error), abs=0.1 * error)


def test_paired_differences_are_narrower_than_rows_apart():
    generator = np.random.default_rng(2)
    first = generator.gamma(2.0, size=300)
    scores = np.stack([first, first + 0.1 + generator.normal(0, 0.05, size=300)])
    means = bootstrap(scores, draws=1000, seed=0)
    there, back = paired_differences(scores.mean(axis=1), means)
    assert (there.row, there.than, back.row, back.than) == (0, 1, 1, 0)
    assert back.CIDEr == pytest.approx(0.1, abs=0.02) and back.CIDEr == -there.CIDEr
    assert back.low > 0  # told apart, where the rows' own intervals overlap
    assert interval(means[:, 0])[1] > interval(means[:, 1])[0]


def test_pareto_front():
    costs, scores = [1, 2, 2, 3, 4, 0.5], [10, 9, 12, 12, 13, 1]
    assert pareto(costs, scores) == [5, 0, 2, 4]
    for number in range(6):
        beaten = any(
            c <= costs[number] and s >= scores[number] and (c, s) != (costs[number], scores[number])
            for c, s in zip(costs, scores, strict=True)
        )
        assert (number in pareto(costs, scores)) != beaten


def test_decoder_cost_by_hand(captioner):
    """Greedy, step by step: a piece's matrices, attention to itself and those before, and to the photo's tokens."""
    config, width, length, tokens = captioner.model.config.decoder, 48, 6, 9
    macs = tokens * 64 * width  # the projection of the encoder's tokens
    for step in range(1, length + 1):
        for _ in range(config.n_layer):
            macs += 4 * width**2 + 2 * step * width  # self-attention
            macs += 2 * width**2 + 2 * tokens * width  # cross-attention: query, output
            macs += (tokens * 2 * width**2) if step == 1 else 0  # its keys and values, kept from then on
            macs += 8 * width**2  # MLP
        macs += width * config.vocab_size
    assert count_decoder_gflops(captioner, tokens, length, num_beams=1) == pytest.approx(2e-9 * macs, rel=1e-6)


def test_what_cannot_be_compared(captioner, captions, tmp_path):
    with pytest.raises(CaptionerError, match="grid allows 1 to 6"):
        contender("small", captioner, [3, 7])
    with pytest.raises(CaptionerError, match="two captioners are called small"):
        compare([contender("small", captioner)] * 2, captions, tmp_path)
    with pytest.raises(CaptionerError, match="nothing to compare"):
        compare([], captions, tmp_path)


@pytest.mark.slow
def test_files(compared, captions):
    out, found = compared
    write_all(found, captions, out)
    assert Comparison.from_dict(json.loads((out / "comparison.json").read_text())) == found
    with open(out / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["CIDEr"]) for row in rows] == [row.CIDEr for row in found.rows]
    assert (out / "comparison.svg").read_text().count("<svg") == 1
    first = (out / "comparison.svg").read_bytes()
    write_all(found, captions, out)
    assert (out / "comparison.svg").read_bytes() == first  # the same results are the same file
    page = (out / "comparison.html").read_text()
    assert "<img" not in page and "small &amp; &lt;plain&gt;" in page


@pytest.mark.slow
def test_the_plot_marks_the_front(compared):
    first = compared[1].rows[0]
    rows = [
        replace(first, CIDEr=score, encoder_gflops=cost, decoder_gflops=0.0, model=name)
        for name, cost, score in (("a", 1, 0.1), ("a", 2, 0.3), ("b", 3, 0.2))
    ]
    axes = plot(replace(compared[1], rows=rows), "gflops").axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["Pareto front"] == [[1, 10], [2, 30]]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["4", "4", "4"]


@pytest.mark.slow
def test_the_page_needs_nothing_else(compared, captions):
    from playwright.sync_api import sync_playwright

    out, found = compared
    path = out / "with-photos.html"
    write_page(found, path, examples(found, captions, out, 2))
    source = path.read_text()
    # An SVG names its language and its own parts; nothing else is pointed to.
    links = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')\s>]+)', source)
    assert links and all(link.startswith(("data:image/", "#")) for link in links)
    assert not re.search(r"<script|<link|@import", source)
    requests = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390  # nothing sticks out on a phone
        assert page.locator(".plots svg").count() == 2
        assert page.locator(".photo img").evaluate_all("all => all.map(each => each.naturalWidth)") == [64, 64]
        ink = page.locator(".plots svg").first.evaluate("each => getComputedStyle(each).color")
        ground = page.locator("body").evaluate("each => getComputedStyle(each).backgroundColor")
        cells = page.locator("table").first.locator("tr").nth(1).locator("td").all_inner_texts()
        browser.close()
    assert min(map(int, re.findall(r"\d+", ink)[:3])) > 200 > 50 > max(map(int, re.findall(r"\d+", ground)[:3]))
    assert cells[:3] == ["small & <plain>", "4", f"{found.rows[0].CIDEr * 100:.1f}"]
    assert all(not request.startswith("http") for request in requests)


@pytest.mark.slow
def test_the_command(captioner_folder, captioned_folder, tmp_path):
    done = vlcap(
        "compare",
        "--model",
        f"mine={captioner_folder}",
        "--data",
        captioned_folder,
        "--split",
        "val",
        "--budget",
        3,
        "--beams",
        1,
        "--limit",
        8,
        "--photos",
        1,
        "--out",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"mine +9 ", done.stdout)
    assert {path.name for path in tmp_path.iterdir()} == {
        "comparison.csv",
        "comparison.json",
        "comparison.html",
        "comparison.svg",
        "predictions",
        ".vlcap-results.json",
    }
    assert (tmp_path / "comparison.html").read_text().count("<img") == 1
