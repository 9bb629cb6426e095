"""Studies on drawn photos: every stage runs, finished stages are not repeated, shared settings are shared."""

import json
import re
from importlib.resources import files

import pytest
import yaml
from typer.testing import CliRunner

from app.cli import app
from scripts import scaling
from tests.support import drawings
from train import study
from train.classifier import ClassifierRecipe
from train.loop import TrainingError
from train.recipe import RecipeError
from train.study import train_study
from train.study_recipe import SMOKE_CAPTIONER, SMOKE_CLASSIFIER, StudyRecipe
from vlcap.captioner import Captioner
from vlcap.model.encoder import Encoder, digest_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a fixture is up to ten trainings; the machine may be busy

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


def load(*overrides: str) -> StudyRecipe:
    rows, ablations = yaml.safe_dump(ROWS, default_flow_style=True), yaml.safe_dump([LEARNED], default_flow_style=True)
    return StudyRecipe.load(
        "small",
        [f"rows={rows}", f"ablations={ablations}", "split=val", "captioner.cider=false", *overrides],
        smoke=True,
        prefix="table3",
    )


class Interruption(Exception):
    pass


@pytest.fixture(scope="module")
def table(class_folder, captioned_folder, tmp_path_factory, quick_curves_in_module):
    """A table, interrupted before its second row's decoder; (folder, comparison, stages run before and after)."""
    out = tmp_path_factory.mktemp("table")
    run = []
    train_classifier, train_captioner = study.train_classifier, study.train_captioner

    def classifier(recipe, data, to):
        run.append(to.relative_to(out).as_posix())
        return train_classifier(recipe, data, to)

    def captioner(recipe, data, to):
        if to.name == "vittm-captioner" and not (out / "interrupted").exists():
            (out / "interrupted").touch()
            raise Interruption
        run.append(to.relative_to(out).as_posix())
        return train_captioner(recipe, data, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "train_classifier", classifier)
        patch.setattr(study, "train_captioner", captioner)
        with pytest.raises(Interruption):
            train_study(load("image_size=96"), [str(class_folder)], [str(captioned_folder)], out)
        before = list(run)
        [found] = train_study(load("image_size=96"), [str(class_folder)], [str(captioned_folder)], out)
        assert found.folder == out / "comparison"
        return out, found.comparison, before, run[len(before) :]


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
    assert before == ["lookupvit-classifier", "lookupvit-captioner", "vittm-classifier"]
    assert after == ["vittm-captioner", "learned-tokens-classifier", "learned-tokens-captioner"]


def test_stages_say_what_they_reached(table):
    out, _, _, _ = table
    stages = json.loads((out / "stages.json").read_text())
    assert len(stages) == 6
    assert set(stages["lookupvit-classifier"]["figures"]) == {
        f"{figure}@{budget}" for figure in ("val_loss", "top1") for budget in (2, 3)
    }
    assert all(stage["minutes"] >= 0 for stage in stages.values())


def test_photos_of_another_size_are_captioned(table):
    out, _, _, _ = table
    configs = [json.loads((out / f"{name}-encoder" / "config.json").read_text()) for name in ("lookupvit", "vittm")]
    assert all(config["pixels"]["size"] == 96 for config in configs)
    classified = json.loads((out / "vittm-classifier" / "encoder" / "config.json").read_text())
    assert classified["pixels"]["size"] == 64


def test_rows_are_trained_again_with_other_seeds():
    recipe = load("seeds={ViTTM: [1, 2]}", "classifier.cache_seed=0")
    again = ["ViTTM, seed 1", "ViTTM, seed 2"]
    assert [row.name for row in recipe.all_rows] == ["LookupViT", "ViTTM", *again, "learned tokens"]
    assert [row.name for row in recipe.chosen([again[1]])] == again[1:]
    first, _, last = recipe.all_rows[1:4]
    stages = [recipe.classifier_recipe(row).model_dump() for row in (first, last)]
    assert {key for key in stages[0] if stages[0][key] != stages[1][key]} == {"seed"}
    assert recipe.classifier_recipe(last).seed == recipe.captioner_recipe(last, "E").seed == 2
    assert recipe.classifier_recipe(last).view_seed == 0 and recipe.captioner_recipe(last, "E").view_seed == 2
    assert recipe.folders_of(last) == ["vittm-seed-2-classifier", "vittm-seed-2-captioner"]


def test_the_rivals_differ_in_their_encoder_alone():
    """Their stages see the same cached views of the same photos, and their decoders have the same recipe."""
    recipe = StudyRecipe.load("study-rivals", ["seeds={ToMe 9: [1]}"])
    own = {"encoder", "budgets", "seed"}
    for runs in (
        [recipe.classifier_recipe(row, "words").model_dump() for row in recipe.all_rows],
        [recipe.captioner_recipe(row, "E").model_dump() for row in recipe.all_rows],
    ):
        assert len(runs) == 16 and all(run["cache_seed"] == 0 for run in runs)
        assert all(run[key] == runs[0][key] for run in runs for key in run if key not in own)


@pytest.mark.parametrize("name", ["small", "gpu", "paper"])
def test_shipped_recipes_train_alike(name):
    """All rows share everything that is trained with but the encoder, its own arguments and budgets."""
    recipe = StudyRecipe.load(name, prefix="table3")
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
        (["classifier.lr=[1"], r"--set classifier\.lr=\[1: its value is not YAML"),
        (["rows=[{name: a}]"], "row a has no encoder"),
        (["rows=[{name: a, encoder: b, train: [words]}]"], "row a: no stage is called words: there are classifier"),
        (["rows=[{name: a, encoder: b, stages: {words: {}}}]"], "row a: no stage is called words"),
        (["stages={captioner: {}}"], "a stage of classification may not be called captioner"),
        (
            ["stages={b-c: {}, c: {}}", "rows=[{name: a, encoder: x}, {name: a b, encoder: y}]"],
            "share the folder a-b-c",
        ),
        (["rows=[{name: a, encoder: b/c, model_args: {depth: 2}}]"], "model_args can't change a given encoder"),
        (["captioner.recipe=none"], "no recipe 'none'"),
        (["seeds={Nobody: [1]}"], "seeds: no row is called 'Nobody'"),
    ],
)
def test_recipes_that_cannot_be_used(overrides, message):
    with pytest.raises(RecipeError, match=message):
        StudyRecipe.load("small", overrides, prefix="table3")
    with pytest.raises(RecipeError, match="no recipe 'table3-none'"):
        StudyRecipe.load("none", prefix="table3")


def test_one_process_alone(class_folder, captioned_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="torchrun can train its stages"):
        train_study(load(), [str(class_folder)], [str(captioned_folder)], tmp_path)


def test_a_table_knows_what_it_was_made_of(table, class_folder, captioned_folder, tmp_path):
    """Its stages are done, and would be taken for those of other photos, or of another size."""
    out, *_ = table
    other = drawings.write_coco_folder(tmp_path / "other", {"train2014": 32, "val2014": 16})
    with pytest.raises(TrainingError, match=r"begun with other data: for train .*, now other \(32 photos\)"):
        train_study(load("image_size=96"), [str(class_folder)], [str(other)], out)
    with pytest.raises(TrainingError, match="for photos of another size than 80"):
        train_study(load("image_size=80"), [str(class_folder)], [str(captioned_folder)], out)
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(TrainingError, match=r"holds recipe\.yaml, and no run of this version wrote it"):
        train_study(load(), [str(class_folder)], [str(captioned_folder)], tmp_path)
    assert (tmp_path / "recipe.yaml").read_text() == "mine"


def test_a_bad_value_is_the_same_error_in_every_program():
    for load_recipe in (lambda *a: ClassifierRecipe.load(None, *a), lambda *a: StudyRecipe.load("table3-small", *a)):
        with pytest.raises(RecipeError, match=r"^--set lr=\[1: its value is not YAML$"):
            load_recipe(["lr=[1"])
    assert ClassifierRecipe.load(None, ["model_args.depth=2"]).model_args == {"depth": 2}


def test_a_folder_of_table3_by_an_earlier_version_is_refused(class_folder, captioned_folder, tmp_path):
    (tmp_path / "run.json").write_text('{"kind": "table3"}')
    with pytest.raises(TrainingError, match="holds a run of train table3, not study: choose another --out"):
        train_study(load(), [str(class_folder)], [str(captioned_folder)], tmp_path)


ROW = {"split": "val", "rounds": 1, "limit": 8, "captioner": {**SMOKE_CAPTIONER, "cache_views": 1}}
STAGES = {"classes": {"budgets": [2, 3]}, "words": {"target": "words", "budgets": [3]}}


@pytest.fixture(scope="module")
def in_all_ways(class_folder, captioned_folder, captioner_folder, tmp_path_factory, quick_curves_in_module):
    """A study with a row of each kind: two stages, a given encoder, its lookup tokens, a given captioner."""
    folder = tmp_path_factory.mktemp("study")
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(folder / "given")
    decoded = {"num_beams": 2, "repetition_penalty": 1.4}
    rows = [
        {"name": "both", "encoder": "lookupvit_test_patch8_48", "stages": {"words": {"words": 10}}},
        {"name": "one", "train": ["words"], "about": "words alone", "captioner": {"width": 32}},
        {"name": "none", "train": False, "budgets": [3]},
        {"name": "lookup", "train": False, "budgets": [3], "model_args": {"streams": ["lookup"]}},
        {"name": "there", "model": str(captioner_folder), "compare_at": [2], "generation": decoded},
    ]
    recipe = {"encoder": str(folder / "given"), "classifier": {**SMOKE_CLASSIFIER, "image_size": 48}, "rows": rows}
    (folder / "base.yaml").write_text(yaml.safe_dump({**ROW, "rows": [], "compare_at": [3], "limit": 4}))
    recipe |= {"base": str(folder / "base.yaml"), "stages": STAGES, "limit": 6, "every_set": True}
    (folder / "all.yaml").write_text(yaml.safe_dump(recipe))
    other = drawings.write_coco_folder(folder / "other", {"train2014": 16, "val2014": 8})
    loaded = StudyRecipe.load(str(folder / "all.yaml"))
    sets = [str(captioned_folder), str(other)]
    return folder, loaded, train_study(loaded, [str(class_folder)], sets, folder / "run")


def test_rows_of_every_kind(in_all_ways):
    folder, recipe, found = in_all_ways
    assert recipe.rounds == 1 and recipe.limit == 6  # the base's, and one of its own over the base's
    assert [each.folder.name for each in found] == ["comparison", "comparison-other"]
    assert [each.captions.name for each in found][1:] == ["other"]
    for each in found:
        rows = [(row.model, row.budget, row.tokens) for row in each.comparison.rows]
        assert rows == [("both", 3, 9), ("one", 3, 9), ("none", 3, 9), ("lookup", 3, 36), ("there", 2, 4)]
        decoding = each.comparison.setting["generation"]
        assert decoding["there"]["num_beams"] == 2 and decoding["there"]["repetition_penalty"] == 1.4
        assert "repetition_penalty" not in decoding["none"]
    stages = json.loads((folder / "run" / "stages.json").read_text())
    assert list(stages) == [
        *("both-classes", "both-words", "both-captioner", "one-words", "one-captioner"),
        *("none-captioner", "lookup-captioner"),
    ]
    assert stages["both-words"]["recipe"]["encoder"] == str(folder / "run" / "both-classes" / "encoder")
    assert stages["one-words"]["recipe"]["encoder"] == str(folder / "given")
    assert (stages["both-words"]["recipe"]["words"], stages["one-words"]["recipe"]["words"]) == (10, 20)
    assert stages["one-captioner"]["recipe"]["width"] == 32 and stages["none-captioner"]["recipe"]["width"] == 48
    assert (folder / "run" / "tokens").is_dir()  # one cache for all rows


def test_a_given_encoder_keeps_its_weights(in_all_ways):
    folder, _, _ = in_all_ways
    given = Encoder.load(folder / "given").without_heads()
    none = Captioner.from_pretrained(folder / "run" / "none-captioner" / "captioner").model.encoder
    lookup = Captioner.from_pretrained(folder / "run" / "lookup-captioner" / "captioner").model.encoder
    assert digest_weights(none) == digest_weights(given) == digest_weights(lookup)
    assert not (folder / "run" / "none-encoder").exists()


def test_the_table_of_stages(in_all_ways):
    folder, _, _ = in_all_ways
    _, _, *lines = (folder / "run" / "stages.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in cells] == ["`both`", "`one`", "`none`", "`lookup`"]
    assert cells[1][1] == "words alone" and cells[1][2] == "captioner.width=32, train=['words']"
    assert re.fullmatch(r"top1@[23] [\d.]+ %, mAP@3 [\d.]+ %", cells[0][4])
    assert cells[2][4] == "" and re.fullmatch(r"[\d.]+ / [\d.]+", cells[2][5])


def test_chosen_rows_alone(in_all_ways, class_folder, captioned_folder, monkeypatch):
    folder, recipe, _ = in_all_ways
    sets = [str(captioned_folder), str(folder / "other")]
    monkeypatch.setattr(study, "train_captioner", None)  # all is there
    found = train_study(recipe, [str(class_folder)], sets, folder / "run", rows=["none"])
    assert [row.model for row in found[0].comparison.rows] == ["none"]
    assert len(json.loads((folder / "run" / "stages.json").read_text())) == 7
    with pytest.raises(RecipeError, match="no row is called 'nine': there are both, lookup, none, one, there"):
        train_study(recipe, [str(class_folder)], sets, folder / "run", rows=["nine"])


def test_the_plot_of_scaling(in_all_ways, tmp_path, monkeypatch, capsys):
    folder, _, _ = in_all_ways
    for names, row in (("LENGTHS", "both"), ("ENCODERS", "both"), ("DECODERS", "none")):
        monkeypatch.setattr(scaling, names, (row,))
    scaling.main(classes=folder / "run", decoders=folder / "run", out=tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes()[1:4] == b"PNG"
    printed = capsys.readouterr().out
    assert re.search(r"\| `both` \| 2 \| [\d.]+ \|", printed) and "decoder `none`" in printed


def test_what_is_missing_is_said_before_the_work(in_all_ways, captioned_folder, tmp_path):
    _, recipe, _ = in_all_ways
    with pytest.raises(TrainingError, match="row both learns from labeled photos: give --data-classes"):
        train_study(recipe, [], [str(captioned_folder)], tmp_path)
    gone = recipe.model_copy(update={"encoder": "runs/gone/encoder"})
    with pytest.raises(TrainingError, match="row one: there is no encoder folder runs/gone/encoder: train it first"):
        train_study(gone, [], [str(captioned_folder)], tmp_path)
    gone = recipe.model_copy(update={"captioner": {"decoder": "runs/gone/decoder"}})
    with pytest.raises(TrainingError, match="row both: there is no decoder folder runs/gone/decoder: train it first"):
        train_study(gone, [], [str(captioned_folder)], tmp_path)
    assert not list(tmp_path.iterdir())


STUDIES = sorted(
    path.name.removesuffix(".yaml")
    for path in (files("train") / "recipes").iterdir()
    if path.name.startswith(("table3-", "study-"))
)


@pytest.mark.parametrize("name", STUDIES)
def test_shipped_studies_say_their_command(name):
    text = (files("train") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    kind, own = re.search(r"#   vlcap train (study|table3) --recipe (\S+) ", text).groups()
    recipe = StudyRecipe.load(own, prefix=kind)
    assert recipe == StudyRecipe.load(name) and len(recipe.all_rows) >= 4
    StudyRecipe.load(name, smoke=True)


@pytest.mark.parametrize("name", ["study-tokens", "study-decoding", "study-rivals"])
def test_smoke(name, class_folder, captioned_folder, tmp_path, quick_curves):
    """Some rows of a shipped study, from the command line to its page. Only the comparison is scored."""
    rows = [row.name for row in StudyRecipe.load(name).all_rows]
    few = {"study-rivals": ["ToMe 9", "ViTTM 9"]}.get(name, [rows[0], rows[-1]])
    chosen = [f"--row={row}" for row in few]
    data = ["--data-classes", str(class_folder), "--data-captions", str(captioned_folder)]
    own = [f"--set={each}" for each in ("split=val", "captioner.cider=false")]
    ran = CliRunner().invoke(
        app,
        ["train", "study", "--recipe", name, *chosen, *data, *own, "--out", str(tmp_path), "--smoke"],
        catch_exceptions=False,
    )
    assert ran.exit_code == 0, ran.output
    out = tmp_path / "smoke-1"
    assert (out / "comparison" / "comparison.html").is_file()
    assert len((out / "stages.md").read_text().splitlines()) == 2 + (0 if name == "study-decoding" else len(chosen))
