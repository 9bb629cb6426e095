"""`vlcap evaluate --classifier`: the trainer's own figures, on any split, and what was taken for what."""

import csv
import json

import pytest
import torch
import typer

from app.commands.evaluate import evaluate
from encoders import EncoderError
from tests.support import drawings
from train.classifier import ClassifierRecipe, train_classifier
from train.labels import LabelError, join_labeled, read_labeled
from vlcap.evaluation.classifier import check_budgets, evaluate_classifier, likeliest, load_classifier
from vlcap.model.folder import ModelFolderError


@pytest.fixture(scope="module")
def run(class_folder, tmp_path_factory):
    """A classifier of four colors that knows some of them, its last validation figures, and its folder."""
    out = tmp_path_factory.mktemp("classifier")
    settings = ["encoder=lookupvit_test_patch8_48", "workers=0", "batch_size=24", "steps=4", "lr=1e-3"]
    recipe = ClassifierRecipe.load(None, [*settings, "budgets=[2,3]", "evaluate_every=100"])
    with pytest.MonkeyPatch.context() as patched:  # drawing them takes longer than the training
        patched.setattr("train.progress.draw_curves", lambda log, image: image.write_bytes(b"curves"))
        return out, train_classifier(recipe, [str(class_folder)], out)


@pytest.mark.slow
def test_the_figures_are_the_trainers_own(run, class_folder, tmp_path, capsys):
    folder, figures = run
    evaluate(data=str(class_folder), classifier=str(folder / "encoder"), out=tmp_path, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "metrics.json").read_text())
    assert report["N"] == 24 and report["classes"] == 4 and report["tokens"] == [4, 9] and report["split"] == "val"
    for budget in (2, 3):
        assert report[f"top1@{budget}"] == pytest.approx(figures[f"top1@{budget}"], abs=1e-6)
        assert {f"top1@{budget} compressed", f"top1@{budget} lookup"} <= report.keys()
        rows = [*csv.reader((tmp_path / f"confusion-{budget}.csv").open())]
        table = [[int(each) for each in row[1:]] for row in rows[1:]]
        assert rows[0][1:] == [row[0] for row in rows[1:]] == sorted(drawings.COLORS)
        assert [sum(row) for row in table] == [6] * 4
        assert sum(table[n][n] for n in range(4)) == report[f"top1@{budget}"] * 24
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    right = sum(each["label"] == each["predicted"]["3"][0] for each in predictions)
    assert right == report["top1@3"] * 24 and len(predictions) == 24
    assert not any(name.startswith("top5") for name in report)  # of four classes, it would say nothing


@pytest.mark.slow
def test_classes_are_matched_by_name(run, class_folder, tmp_path):
    """A split that lacks a class numbers the others differently; an unknown class is refused."""
    encoder = load_classifier(run[0])
    for name in ("blue", "yellow"):
        (tmp_path / "some" / "test").mkdir(parents=True, exist_ok=True)
        (tmp_path / "some" / "test" / name).symlink_to(class_folder / "val" / name)
    some = join_labeled([read_labeled(str(tmp_path / "some"), "test")], encoder.config.classes)
    whole = join_labeled([read_labeled(str(class_folder), "val")], encoder.config.classes)
    report = evaluate_classifier(encoder, some, "c", "some", "test", out=tmp_path / "out")
    evaluate_classifier(encoder, whole, "c", "whole", "val", out=tmp_path / "all")
    found, known = ([*csv.reader((tmp_path / each / "confusion-2.csv").open())] for each in ("out", "all"))
    assert found[1] == known[1] and found[4] == known[4]  # blue and yellow, whatever their numbers were
    assert [sum(map(int, row[1:])) for row in found[2:4]] == [0, 0]
    assert report["N"] == 12
    drawings.draw(0).save(tmp_path / "photo.png")
    (tmp_path / "other" / "val" / "mauve").mkdir(parents=True)
    (tmp_path / "photo.png").rename(tmp_path / "other" / "val" / "mauve" / "a.png")
    with pytest.raises(LabelError, match="'mauve'"):
        evaluate(data=str(tmp_path / "other"), classifier=str(run[0]))


@pytest.mark.slow
def test_what_cannot_be_evaluated_is_refused(run, class_folder, captioner, tmp_path):
    with pytest.raises(typer.BadParameter, match="--beams is for captioners"):
        evaluate(data=str(class_folder), classifier=str(run[0]), beams=3)
    with pytest.raises(typer.BadParameter, match="auto is for captioners"):
        evaluate(data=str(class_folder), classifier=str(run[0]), budget="auto")
    with pytest.raises(EncoderError, match="budget 9 does not fit"):
        evaluate(data=str(class_folder), classifier=str(run[0]), budget="9")
    captioner.model.encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ModelFolderError, match="no classification heads"):
        load_classifier(tmp_path / "encoder")
    assert check_budgets(load_classifier(run[0]), None) == [2, 3]


def test_the_five_likeliest_begin_with_the_first():
    logits = torch.tensor([[0.0, 3, 1, 2, -1, -2, 5], [1, 1, 1, 1, 1, 1, 1]])
    first, equal = likeliest(logits)
    assert first == [6, 1, 3, 2, 0]
    assert equal[0] == 0 and len(set(equal)) == 5  # the first, as argmax says
