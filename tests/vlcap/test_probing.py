"""`vlcap probe`: few-shot transfer and corruptions, against scikit-learn, by hand, and to the bit."""

import csv
import json

import numpy as np
import pytest
import torch

from app.commands.probe import probe
from tests.support import drawings, frozen_models
from train.labels import read_labeled
from vlcap.data.corruptions import CORRUPTIONS, CorruptionError, bring_to_size, check_corruptions, corrupt
from vlcap.evaluation.classifier import evaluate_classifier
from vlcap.model.encoder import Encoder
from vlcap.probing.few_shot import HELD_OUT, STRENGTHS, draw, few_shot, fit
from vlcap.probing.ridge import ridge
from vlcap.probing.robustness import ALEXNET, corrupted, deviation, mean_corruption_error
from vlcap.probing.subject import ProbeError, Subject, load_subject

SIDE = 64  # of the drawn photos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Square drawings by color: 40 x 4 train, 6 x 4 val."""
    out = tmp_path_factory.mktemp("square")
    for split, count in {"train": 160, "val": 24}.items():
        for number in range(count):
            path = out / split / drawings.kind(number)[0] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawings.draw(number + (1000 if split == "val" else 0), (SIDE, SIDE)).save(path)
    return out


@pytest.fixture(scope="module")
def encoder():
    """Random weights, also in its heads: colors can be read off its tokens all the same."""
    torch.manual_seed(0)
    made = Encoder.create("lookupvit_test_patch8_48", classes=sorted(drawings.COLORS), budgets=[2, 3], budget=3)
    for name, weight in made.named_parameters():
        if "head" in name:
            torch.nn.init.normal_(weight)
    return made.freeze()


@pytest.fixture(scope="module")
def splits(folder):
    return read_labeled(str(folder), "train"), read_labeled(str(folder), "val")


@pytest.mark.slow  # scikit-learn takes seconds to import
@pytest.mark.parametrize("photos, width, classes", [(12, 40, 4), (60, 7, 3), (30, 30, 2)])
def test_ridge_is_scikit_learns(photos, width, classes):
    from sklearn.linear_model import Ridge, RidgeClassifier

    generator = np.random.default_rng(0)
    features = (generator.normal(size=(photos, width)) * 3 + 5).astype(np.float32)
    labels = np.arange(photos) % classes
    new = generator.normal(size=(50, width)) * 3 + 5
    strengths = (0.01, 1.0, 300.0)
    for strength, ours in zip(strengths, ridge(features, labels, classes, strengths), strict=True):
        exact = features.astype(np.float64)
        theirs = RidgeClassifier(alpha=strength).fit(exact, labels)
        if classes > 2:  # of two classes, it has the scores of the second alone
            assert np.abs(ours.weight - theirs.coef_.T).max() < 1e-4
            assert np.abs(ours.bias - theirs.intercept_).max() < 1e-4
            assert np.abs(ours.scores(new) - theirs.decision_function(new)).max() < 1e-4
        targets = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
        assert np.abs(ours.scores(new) - Ridge(alpha=strength).fit(exact, targets).predict(new)).max() < 1e-4
        assert (ours.classes(new) == theirs.predict(new)).all()


def test_draws_are_nested_seeded_and_apart_from_what_is_held_out():
    targets = [0, 1, 2] * 40
    drawn = draw(targets, ["a", "b", "c"], shots=10, draws=3, seed=1)
    again, other = (draw(targets, ["a", "b", "c"], shots=10, draws=3, seed=seed) for seed in (1, 2))
    assert (drawn.rows == again.rows).all() and (drawn.rows != other.rows).any()
    assert len(draw([0, 1, 2] * 60, ["a", "b", "c"], shots=10, draws=1, seed=1).held_out) == 3 * HELD_OUT
    assert len(drawn.held_out) == 3 * 15 and not {*drawn.held_out} & {*drawn.rows.ravel()}
    assert {*drawn.of(0, 1)} < {*drawn.of(0, 5)} and len({*drawn.of(0, 5)}) == 15
    assert [targets[row] for row in drawn.of(2, 1)] == [0, 1, 2]
    fewer = draw(targets, ["a", "b", "c"], shots=30, draws=2, seed=0)
    assert len(fewer.held_out) == 3 * 5 and {*fewer.of(0, 30)} != {*fewer.of(1, 30)}  # half of what the shots leave
    with pytest.warns(UserWarning, match="3 of 3 classes have only 40 photos, such as 'a': all draws of 39 shots"):
        alike = draw(targets, ["a", "b", "c"], shots=39, draws=2, seed=0)
    assert len(alike.held_out) == 3 and {*alike.of(0, 39)} == {*alike.of(1, 39)}
    with pytest.raises(ProbeError, match="class 'c' has 40 photos in the train split: 40 shots need one more"):
        draw([0] * 50 + [1] * 50 + [2] * 40, ["a", "b", "c"], shots=40, draws=1, seed=0)


def test_the_strength_is_the_best_on_held_out_photos_and_the_strongest_of_equals():
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    clear = np.eye(2)[labels] * 10 + generator.normal(size=(40, 2)) * 0.01
    strength, [probe_] = fit([(clear, labels)], (clear, labels), 2)
    assert strength == STRENGTHS[-1] and (probe_.classes(clear) == labels).all()


@pytest.mark.slow
def test_few_shot_transfer(encoder, splits):
    subjects = [Subject("random", encoder, (2, 3)), Subject("both streams", encoder, (3,), "heads")]
    found = few_shot(subjects, *splits, shots=[1, 10], draws=3, seed=0)
    assert [(row.encoder, row.tokens, row.shots) for row in found.rows] == [
        *(("random", tokens, shots) for tokens in (4, 9) for shots in (1, 10)),
        *(("both streams", 9, shots) for shots in (1, 10)),
    ]
    for row in found.rows:
        assert row.low <= row.accuracy <= row.high and len(row.accuracies) == 3
        assert row.accuracy == pytest.approx(np.mean(row.accuracies))
        assert (row.loss is None) == (row.budget == 3)
    one, ten = (np.mean([row.accuracy for row in found.rows if row.shots == shots]) for shots in (1, 10))
    assert ten > 0.6 and ten > one
    again = few_shot(subjects[:1], *splits, shots=[1, 10], draws=3, seed=0)
    assert again.rows == found.rows[:4]  # whatever is probed beside it
    assert found.test[1, 3].shape[1] == 2 * found.test[0, 3].shape[1]


def test_mean_corruption_error_by_hand():
    """Two corruptions: 0.2 of 0.4 and 0.9 of 0.6 are 50 % and 150 %."""
    assert mean_corruption_error({"fog": 0.2, "snow": 0.9}, {"fog": 0.4, "snow": 0.6}) == pytest.approx(100)
    assert mean_corruption_error({"fog": 0.1}, {"fog": 0.4, "snow": 0.6}) == pytest.approx(25)
    assert mean_corruption_error(ALEXNET, ALEXNET) == pytest.approx(100)
    assert mean_corruption_error({"fog": 0.2}, {"fog": 0.0}) is None


def test_deviation_by_hand():
    clean = np.array([[3.0, 4.0], [0.0, 2.0]], dtype=np.float32)
    assert deviation(clean, clean).tolist() == [0, 0]
    assert deviation(clean, np.array([[3.0, 9.0], [0.0, 0.0]], dtype=np.float32)).tolist() == [1, 1]


def test_photos_are_brought_to_a_size():
    photo = drawings.draw(0, (64, 64))
    assert bring_to_size(photo, 64) is photo
    assert corrupt(photo, "fog", 0, seed=0, row=0) is photo
    for size in ((64, 48), (48, 65), (300, 40)):
        assert bring_to_size(drawings.draw(0, size), 56).size == (56, 56)
    for names, severities, size, said in (
        (("mist",), (1,), 64, "no corruption is called 'mist'"),
        (("fog",), (6,), 64, "severity 6"),
        (("fog",), (1,), 31, "32 at least"),
    ):
        with pytest.raises(CorruptionError, match=said):
            check_corruptions(names, severities, size)


@pytest.mark.slow
def test_corruptions_repeat_and_leave_the_generator_alone():
    photo = drawings.draw(0, (SIDE, SIDE))
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    for name in CORRUPTIONS:
        first, again, other = (np.asarray(corrupt(photo, name, 3, seed=seed, row=7)) for seed in (0, 0, 1))
        assert first.shape == (SIDE, SIDE, 3) and (first == again).all(), name
        assert (first != np.asarray(photo)).any(), name
        certain = name in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
        assert (first == other).all() == certain, name
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.slow
def test_severity_0_is_the_clean_accuracy_to_the_bit(encoder, splits):
    """By the encoder's own heads and by ridge probes; unchanged photos deviate by 0, corrupted ones by more."""
    subjects = [Subject("own", encoder, (2, 3), numbers=(0, 1, 2, 3)), Subject("ridge", encoder, (2, 3))]
    shots = few_shot(subjects, *splits, shots=[5], draws=3)
    found = corrupted(subjects, splits[1], shots.probes, ["contrast", "fog"], [1, 5], size=SIDE)
    report = evaluate_classifier(encoder, splits[1], "c", "d", "val", [2, 3])
    by = {(each.encoder, each.budget): each for each in found.summary}
    assert [by["own", budget].clean for budget in (2, 3)] == [report["top1@2"], report["top1@3"]]
    assert [by["ridge", row.budget].clean for row in shots.rows[2:]] == [row.accuracy for row in shots.rows[2:]]
    assert [each.classifier for each in found.summary] == ["heads"] * 2 + ["ridge"] * 2
    assert {row.deviation for row in found.rows if row.severity == 0} == {0.0}
    assert all(0 < each.deviation["1"] < each.deviation["5"] for each in found.summary)
    assert found.reference == "own at budget 3" and by["own", 3].mce == pytest.approx(100)
    for each in found.summary:
        assert np.sum(np.diff(each.edges) * each.density) == pytest.approx(1)
        own = [row for row in found.rows if (row.encoder, row.budget) == (each.encoder, each.budget) and row.severity]
        assert each.accuracy["mean"] == pytest.approx(np.mean([row.accuracy for row in own]))
    again = corrupted(
        subjects[1:], splits[1], {(0, 2): shots.probes[1, 2], (0, 3): shots.probes[1, 3]}, ["fog"], [5], SIDE
    )
    assert again.rows[1] in found.rows  # the same fog, whatever runs beside it


@pytest.mark.slow
def test_the_command(encoder, folder, tmp_path, capsys):
    """A trained encoder whose heads know the classes, and timm's, from a folder, whose do not."""
    encoder.save_pretrained(tmp_path / "run" / "encoder")
    frozen_models.write(frozen_models.make("siglip"), tmp_path / "vit")
    probe(
        data=str(folder),
        out=tmp_path / "out",
        encoder=[str(tmp_path / "run" / "encoder"), f"ViT=timm:{tmp_path / 'vit'}"],
        budget=[2, 3],
        shots=[1, 2, 4, 5],
        draws=2,
        corruptions=True,
        corruption=["contrast"],
        severity=[5],
        size=SIDE,
        reference="ViT",
        limit=12,
    )
    said = capsys.readouterr().out
    assert "5 shots" in said and "mCE against ViT" in said
    names = [line.split()[0] for line in said.splitlines() if line.strip()]  # on lines of 80 letters
    assert names.count("run") == 4 and names.count("ViT") == 2
    shots, changed = (
        json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("few_shot", "corruptions")
    )
    assert {row["encoder"] for row in shots["rows"]} == {"run", "ViT"} and shots["setting"]["N"] == 12
    assert [each["classifier"] for each in changed["summary"]] == ["heads", "heads", "ridge"]
    rows = [*csv.DictReader((tmp_path / "out" / "corruptions.csv").open())]
    assert [row["severity"] for row in rows] == ["0", "5"] * 3
    for name in ("few_shot", "corruptions"):
        assert "<svg" in (tmp_path / "out" / f"{name}.svg").read_text()


def test_what_cannot_be_probed_is_refused(folder, tmp_path):
    with pytest.raises(ProbeError, match="two encoders are called a: give each a name"):
        probe(data=str(folder), out=tmp_path, encoder=["a=b", "a=c"])
    with pytest.raises(ProbeError, match="--reduce is for encoders timm:NAME only"):
        load_subject("x", reduce="pool")
