"""The table from nothing, on drawn photos: every stage runs, what is done is not done again, alike is alike."""

import json

import pytest
import yaml

from tests.support import drawings
from train import table3
from train.loop import TrainingError
from train.recipe import RecipeError
from train.table3 import Table3Recipe, train_table3

ROWS = [
    {"name": "LookupViT", "encoder": "lookupvit_mini_patch8_96", "budgets": [2, 3], "compare_at": [2, 3, 5]},
    {"name": "ViTTM", "encoder": "vittm_mini_patch8_96"},
]
LEARNED = {
    "name": "learned tokens",
    "encoder": "lookupvit_mini_patch8_96",
    "budgets": [3],
    "model_args": {"learned_tokens": True, "budget": 3},
}


def load(*overrides: str) -> Table3Recipe:
    rows, ablations = yaml.safe_dump(ROWS, default_flow_style=True), yaml.safe_dump([LEARNED], default_flow_style=True)
    return Table3Recipe.load(
        "small",
        [f"rows={rows}", f"ablations={ablations}", "split=val", "captioner.cider=false", *overrides],
        smoke=True,
    )


class Interruption(Exception):
    pass


@pytest.fixture(scope="module")
def table(class_folder, captioned_folder, tmp_path_factory):
    """A table, interrupted before its second row's decoder; (folder, comparison, stages run before and after)."""
    out = tmp_path_factory.mktemp("table")
    run = []
    train_classifier, train_captioner = table3.train_classifier, table3.train_captioner

    def classifier(recipe, data, to):
        run.append(to.relative_to(out).as_posix())
        return train_classifier(recipe, data, to)

    def captioner(recipe, data, to):
        if to.parent.name == "vittm" and not (out / "interrupted").exists():
            (out / "interrupted").touch()
            raise Interruption
        run.append(to.relative_to(out).as_posix())
        return train_captioner(recipe, data, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table3, "train_classifier", classifier)
        patch.setattr(table3, "train_captioner", captioner)
        with pytest.raises(Interruption):
            train_table3(load("image_size=96"), str(class_folder), [str(captioned_folder)], out)
        before = list(run)
        found = train_table3(load("image_size=96"), str(class_folder), [str(captioned_folder)], out)
        return out, found, before, run[len(before) :]


def test_every_row_is_compared(table):
    _, found, _, _ = table
    assert [(row.model, row.tokens) for row in found.rows] == [
        ("LookupViT", 4),
        ("LookupViT", 9),
        ("LookupViT", 25),
        ("ViTTM", 36),
        ("learned tokens", 9),
    ]
    assert [row.trained_for for row in found.rows] == [True, True, False, True, True]
    assert all(row.N == 8 for row in found.rows)


def test_it_goes_on_where_it_stopped(table):
    _, _, before, after = table
    assert before == ["lookupvit/classifier", "lookupvit/captioner", "vittm/classifier"]
    assert after == ["vittm/captioner", "learned-tokens/classifier", "learned-tokens/captioner"]


def test_stages_say_what_they_reached(table):
    out, _, _, _ = table
    stages = json.loads((out / "stages.json").read_text())
    assert len(stages) == 6
    assert set(stages["lookupvit/classifier"]["figures"]) == {
        f"{figure}@{budget}" for figure in ("val_loss", "top1") for budget in (2, 3)
    }
    assert all(stage["minutes"] >= 0 for stage in stages.values())


def test_photos_of_another_size_are_captioned(table):
    out, _, _, _ = table
    configs = [json.loads((out / name / "encoder" / "config.json").read_text()) for name in ("lookupvit", "vittm")]
    assert all(config["pixels"]["size"] == 96 for config in configs)
    classified = json.loads((out / "vittm" / "classifier" / "encoder" / "config.json").read_text())
    assert classified["pixels"]["size"] == 64


@pytest.mark.parametrize("name", ["small", "gpu", "paper"])
def test_shipped_recipes_train_alike(name):
    """All rows share everything that is trained with but the encoder, its own arguments and budgets."""
    recipe = Table3Recipe.load(name)
    classifiers = [recipe.classifier_recipe(row).model_dump() for row in recipe.all_rows if row.train]
    captioners = [recipe.captioner_recipe(row, "E").model_dump() for row in recipe.all_rows]
    for runs, own in ((classifiers, {"encoder", "budgets", "model_args"}), (captioners, {"budgets"})):
        assert len(runs) >= 5
        assert all(
            {k: v for k, v in run.items() if k not in own} == {k: v for k, v in runs[0].items() if k not in own}
            for run in runs
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["classifier.stepz=3"], "stepz"),
        (["seed.x=3"], "seed has no parts"),
        (["captioner.epochs=-1"], "epochs"),
        (["rows=[{name: a, encoder: b}, {name: A, encoder: c}]"], "two rows are called a"),
        (["nothing"], "expected key=value"),
    ],
)
def test_recipes_that_cannot_be_used(overrides, message):
    with pytest.raises(RecipeError, match=message):
        Table3Recipe.load("small", overrides)
    with pytest.raises(RecipeError, match="no recipe 'table3-none'"):
        Table3Recipe.load("none")


def test_one_process_alone(class_folder, captioned_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="torchrun can train its stages"):
        train_table3(load(), str(class_folder), [str(captioned_folder)], tmp_path)


def test_a_table_knows_what_it_was_made_of(table, class_folder, captioned_folder, tmp_path):
    """Its stages are done, and would be taken for those of other photos, or of another size."""
    out, *_ = table
    other = drawings.write_coco_folder(tmp_path / "other", {"train2014": 32, "val2014": 16})
    with pytest.raises(TrainingError, match=r"begun with other data: for train .*, now other \(32 photos\)"):
        train_table3(load("image_size=96"), str(class_folder), [str(other)], out)
    with pytest.raises(TrainingError, match="for photos of another size than 80"):
        train_table3(load("image_size=80"), str(class_folder), [str(captioned_folder)], out)
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(TrainingError, match=r"holds recipe\.yaml, and no run of this version wrote it"):
        train_table3(load(), str(class_folder), [str(captioned_folder)], tmp_path)
    assert (tmp_path / "recipe.yaml").read_text() == "mine"
