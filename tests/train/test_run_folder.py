"""A run's folder: which files belong to the run, what the run was begun with, what may change, when it is done."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from app.cli import app
from tests.support import drawings
from train.captioner import CaptionerRecipe, Captioning, train_captioner
from train.checkpoint import load_checkpoint
from train.classifier import Classification, ClassifierRecipe, train_classifier
from train.loop import TrainingError
from train.progress import read_evaluations
from train.smoke import smoke
from vlcap.evaluation.metrics import MetricsError
from vlcap.files.writing import NotOursError
from vlcap.model.encoder import Encoder

pytestmark = pytest.mark.usefixtures("quick_curves")

CLASSIFIER = ["encoder=lookupvit_test_patch8_48", "workers=0", "batch_size=8", "limit=16", "steps=2"]
CAPTIONER = [
    "workers=0",
    "batch_size=8",
    "limit=16",
    "steps=2",
    "vocab_size=60",
    "width=32",
    "heads=2",
    "layers=1",
    "cider=false",
]


def classify(out, data, *settings):
    return train_classifier(ClassifierRecipe.load(None, [*CLASSIFIER, *settings]), [str(data)], out)


def caption(out, data, *settings):
    return train_captioner(CaptionerRecipe.load(None, [*CAPTIONER, *settings]), [str(data)], out)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    torch.manual_seed(0)
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(folder)
    return folder


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "recipe.yaml",
        "log.jsonl",
        "curves.png",
        "checkpoints/step-00000001.tmp",
        "tensorboard/events",
        "encoder/config.json",
        "encoder",
    ],
)
def test_somebodys_file_under_a_runs_name(name, class_folder, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    with pytest.raises(TrainingError, match=f"holds {name.split('/')[0]}, and no run") as refused:
        classify(tmp_path, class_folder)
    assert "\n" not in str(refused.value)
    assert {path: data for path, data in files(tmp_path).items() if path.name != ".vlcap.lock"} == {path: b"{}"}


@pytest.mark.slow
def test_a_run_in_a_folder_with_other_things(class_folder, tmp_path):
    """As with --out . : the run touches its own files and nothing else."""
    for name in ("smoke/notes.txt", "captioner/README.md", "notes.tmp", ".lock", "tokens"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = files(tmp_path)
    classify(tmp_path, class_folder, "schedule=constant")
    (tmp_path / "encoder" / "README.md").write_text("a card")
    (tmp_path / "checkpoints" / "step-00000002-best.pt").write_text("a copy")
    (tmp_path / "checkpoints" / "notes.tmp").write_text("mine")
    before = {
        path: data
        for path, data in files(tmp_path).items()
        if path in before or path.name in ("README.md", "step-00000002-best.pt", "notes.tmp")
    }
    classify(tmp_path, class_folder, "schedule=constant", "steps=5", "save_every=1")
    assert before.items() <= files(tmp_path).items()


@pytest.mark.slow
def test_evaluated_again_a_card_stays_and_an_edit_is_refused(class_folder, tmp_path):
    classify(tmp_path, class_folder, "schedule=constant")
    (tmp_path / "encoder" / "README.md").write_text("a card")
    old = (tmp_path / "encoder" / "model.safetensors").read_bytes()
    classify(tmp_path, class_folder, "schedule=constant", "steps=4", "save_every=1", "evaluate_every=0.5")
    assert (tmp_path / "encoder" / "README.md").read_text() == "a card"
    assert (tmp_path / "encoder" / "model.safetensors").read_bytes() != old
    config = tmp_path / "encoder" / "config.json"
    config.write_text(edited := config.read_text() + "\n")
    with pytest.raises(NotOursError, match=r"config\.json was changed"):
        classify(tmp_path, class_folder, "schedule=constant", "steps=5")
    assert config.read_text() == edited


@pytest.mark.slow
def test_outputs_may_be_links(class_folder, tmp_path):
    """Links to an empty folder, or to a path that doesn't exist yet: the run always writes through them."""
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "run"
    out.mkdir()
    for name in ("encoder", "checkpoints", "tensorboard"):
        (tmp_path / "elsewhere" / name).mkdir()
        (out / name).symlink_to(tmp_path / "elsewhere" / name)
    (out / "log.jsonl").symlink_to(tmp_path / "elsewhere" / "log.jsonl")
    classify(out, class_folder, "evaluate_every=0.5", "schedule=constant")
    classify(out, class_folder, "steps=3", "schedule=constant")
    assert all((out / name).is_symlink() for name in ("encoder", "checkpoints", "tensorboard", "log.jsonl"))
    assert Encoder.load(tmp_path / "elsewhere" / "encoder").config.budgets == [2, 3]


@pytest.mark.slow
def test_smoke_runs_touch_nothing(class_folder, tmp_path, monkeypatch):
    """In any folder, twice, and next to a real run of the same name."""
    monkeypatch.chdir(tmp_path)
    for name in ("smoke/notes.txt", "runs/smoke/fire/keep", "smoke-1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = files(tmp_path)
    for out in (".", "runs/fire", "runs/fire"):
        arguments = ["train", "classifier", "--data", str(class_folder), "--out", out, "--smoke"]
        ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert ran.exit_code == 0 and "which may be deleted afterwards" in ran.stderr
    assert before.items() <= files(tmp_path).items()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "smoke", "smoke-1", "smoke-2"]
    assert sorted(path.name for path in (tmp_path / "runs" / "fire").iterdir()) == ["smoke-1", "smoke-2"]


def test_a_smoke_run_builds_on_the_latest(tmp_path):
    for number in (2, 10):
        (tmp_path / "classes" / f"smoke-{number}" / "run" / "encoder").mkdir(parents=True)
    recipe = ClassifierRecipe.load(None, [f"encoder={tmp_path / 'classes' / 'encoder'}"])
    small, _ = smoke(recipe, tmp_path / "words")
    assert small.encoder == str(tmp_path / "classes" / "smoke-10" / "run" / "encoder")


@pytest.mark.slow
def test_a_run_knows_its_data(class_folder, captioned_folder, encoder, tmp_path):
    """Data is compared by content: it may be moved, but not have other photos, captions or labels."""
    other = drawings.write_coco_folder(tmp_path / "other", {"train2014": 20, "val2014": 8})
    caption(tmp_path / "run", captioned_folder, f"encoder={encoder}")
    before = files(tmp_path / "run")
    caption(tmp_path / "run", shutil.copytree(captioned_folder, tmp_path / "moved"), f"encoder={encoder}")
    with pytest.raises(TrainingError, match=r"other data: for val .* \(16 photos\), now other \(8 photos\)"):
        caption(tmp_path / "run", other, f"encoder={encoder}")
    annotations = tmp_path / "moved" / "annotations" / "captions_train2014.json"
    annotations.write_text(annotations.read_text().replace("paper", "cloth"))
    with pytest.raises(TrainingError, match=r"other data: for train .* now moved|changed since"):
        caption(tmp_path / "run", tmp_path / "moved", f"encoder={encoder}")
    assert files(tmp_path / "run") == before

    classes = shutil.copytree(class_folder, tmp_path / "classes")
    classify(tmp_path / "classified", classes)
    (classes / "train" / "red" / "0.png").rename(classes / "train" / "blue" / "0.png")
    with pytest.raises(TrainingError, match="changed since \\(names, sizes, captions or labels\\)"):
        classify(tmp_path / "classified", classes)


@pytest.mark.slow
def test_nothing_trained_yet_everything_may_be_mended(captioned_folder, encoder, tmp_path, monkeypatch):
    """After a failure before the first checkpoint, a run starts anew, with a new tokenizer."""
    loss = Captioning.loss

    def broken(*arguments):
        raise InterruptedError

    monkeypatch.setattr(Captioning, "loss", broken)
    with pytest.raises(InterruptedError):
        caption(tmp_path / "run", captioned_folder, f"encoder={encoder}", "vocab_size=40")
    monkeypatch.setattr(Captioning, "loss", loss)
    pieces = (tmp_path / "run" / "tokenizer" / "tokenizer.json").read_bytes()
    other = drawings.write_coco_folder(tmp_path / "other", {"train2014": 16, "val2014": 8})
    path = other / "annotations" / "captions_train2014.json"
    path.write_text(path.read_text().replace("paper", "cloth"))
    caption(tmp_path / "run", other, f"encoder={encoder}")
    assert (tmp_path / "run" / "tokenizer" / "tokenizer.json").read_bytes() != pieces


@pytest.mark.slow
def test_a_run_knows_what_it_began_from(captioned_folder, encoder, tmp_path):
    """An encoder may be moved, but not replaced: the tokens would change."""
    one, two = shutil.copytree(encoder, tmp_path / "one"), tmp_path / "two"
    caption(tmp_path / "run", captioned_folder, f"encoder={one}")
    one.rename(two)
    with pytest.raises(TrainingError, match="one is not a folder: give its current path"):
        caption(tmp_path / "run", captioned_folder, f"encoder={one}")
    caption(tmp_path / "run", captioned_folder, f"encoder={two}")
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(two)
    with pytest.raises(TrainingError, match="begun with another encoder, not"):
        caption(tmp_path / "run", captioned_folder, f"encoder={two}")


def test_what_may_change(class_folder, tmp_path):
    """Settings that don't change the result may change; so may the length, if the schedule doesn't depend on it."""
    classify(tmp_path, class_folder)
    classify(tmp_path, class_folder, "workers=1", "save_every=7", "evaluate_every=3")
    assert ClassifierRecipe.load(str(tmp_path / "recipe.yaml")).workers == 1
    with pytest.raises(TrainingError, match=r"steps: 4 \(was 2\)\); schedule cosine depends on the run's length"):
        classify(tmp_path, class_folder, "steps=4")
    with pytest.raises(TrainingError, match="holds a run of train classifier, not captioner"):
        caption(tmp_path, class_folder, "encoder=e")
    (tmp_path / "recipe.yaml").write_text("# my notes\n" + (tmp_path / "recipe.yaml").read_text())
    classify(tmp_path, class_folder, "workers=1", "save_every=7", "evaluate_every=3")
    assert (tmp_path / "recipe.yaml").read_text().startswith("# my notes")


@pytest.mark.slow
def test_prolonged_under_a_constant_schedule(class_folder, tmp_path, capsys):
    """A prolonged run ends with the weights of a run of the full length; its warm-up stays the same."""
    settings = ["schedule=constant", "warmup=0.5"]
    classify(tmp_path / "run", class_folder, *settings)
    assert classify(tmp_path / "run", class_folder, *settings)
    said = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path / 'run'} is finished, all 2 steps are trained: larger steps or epochs" in said
    classify(tmp_path / "run", class_folder, *settings, "steps=4")
    classify(tmp_path / "whole", class_folder, "schedule=constant", "warmup=0.25", "steps=4")
    run, whole = (load_checkpoint(tmp_path / name / "checkpoints") for name in ("run", "whole"))
    assert run["step"] == 4
    assert all(torch.equal(weight, whole["model"][name]) for name, weight in run["model"].items())
    with pytest.raises(TrainingError, match="has reached step 4, beyond 3 steps: choose another --out"):
        classify(tmp_path / "run", class_folder, *settings, "steps=3")


def test_a_finished_run_says_so(class_folder, tmp_path, capsys):
    figures = classify(tmp_path, class_folder)
    before = files(tmp_path)
    assert classify(tmp_path, class_folder) == figures
    assert "is finished, all 2 steps are trained" in " ".join(capsys.readouterr().err.split())
    assert files(tmp_path) == before


@pytest.mark.slow
def test_checkpoints_that_are_gone(class_folder, tmp_path):
    """A finished run is still finished. What would train it anew over its results is refused, and changes nothing."""
    figures = classify(tmp_path, class_folder, "schedule=constant")
    shutil.rmtree(tmp_path / "checkpoints")
    before = files(tmp_path)
    assert classify(tmp_path, class_folder, "schedule=constant") == figures
    with pytest.raises(TrainingError, match="with other settings"):
        classify(tmp_path, class_folder, "schedule=cosine")
    assert files(tmp_path) == before
    with pytest.raises(TrainingError, match="has reached step 2, and its checkpoints are gone: choose another --out"):
        classify(tmp_path, class_folder, "schedule=constant", "steps=4")


@pytest.mark.slow
def test_a_refused_run_records_nothing(class_folder, tmp_path):
    classify(tmp_path, class_folder, "schedule=constant")
    (tmp_path / "encoder" / "config.json").write_text("{}")  # somebody's
    before = files(tmp_path)
    with pytest.raises(NotOursError, match=r"config\.json"):
        classify(tmp_path, class_folder, "schedule=constant", "steps=4")
    assert files(tmp_path) == before


@pytest.mark.slow
def test_the_best_is_kept_by_a_run_that_goes_on(captioned_folder, encoder, tmp_path, monkeypatch):
    """`keep=best` keeps its record in a file of its own, which the run that goes on reads."""
    settings = (f"encoder={encoder}", "schedule=constant", "keep=best", "cider=true")
    scores = iter((2.0, 1.0))

    def evaluate(self, model):
        self._keep_best(model, cider := next(scores))
        return {"CIDEr": cider}, [], None

    monkeypatch.setattr(Captioning, "evaluate", evaluate)
    caption(tmp_path, captioned_folder, *settings)
    best = files(tmp_path / "captioner")
    caption(tmp_path, captioned_folder, *settings)  # finished
    caption(tmp_path, captioned_folder, *settings, "steps=3")
    assert files(tmp_path / "captioner") == best
    assert json.loads((tmp_path / "best.json").read_text())["CIDEr"] == 2.0


def test_arguments_of_a_trained_encoder_are_its_own(class_folder, encoder, tmp_path):
    for setting in ("model_args={depth: 1}", "pretrained=true"):
        with pytest.raises(TrainingError, match="is a trained encoder, whose arguments and weights are kept"):
            classify(tmp_path / "run", class_folder, f"encoder={encoder}", setting)


@pytest.mark.slow
def test_weights_are_saved_before_they_are_evaluated(class_folder, tmp_path, monkeypatch):
    """A failed evaluation loses nothing; the resumed run repeats it."""
    whole = classify(tmp_path / "whole", class_folder, "evaluate_every=0.5")
    evaluate, calls = Classification.evaluate, []

    def failing(self, model):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no more memory")
        return evaluate(self, model)

    monkeypatch.setattr(Classification, "evaluate", failing)
    with pytest.raises(RuntimeError, match="no more memory"):
        classify(tmp_path / "run", class_folder, "evaluate_every=0.5")
    assert load_checkpoint(tmp_path / "run" / "checkpoints")["step"] == 1
    assert Encoder.load(tmp_path / "run" / "encoder")
    assert classify(tmp_path / "run", class_folder, "evaluate_every=0.5") == whole
    assert read_evaluations(tmp_path / "run" / "log.jsonl") == read_evaluations(tmp_path / "whole" / "log.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("captions", "message"), [(None, "one image only"), ("...", r"8 images have no reference with a word in it")]
)
def test_what_will_be_evaluated_is_checked_at_the_start(captions, message, encoder, tmp_path):
    folder = drawings.write_coco_folder(tmp_path / "data", {"train2014": 16, "val2014": 8 if captions else 1})
    path = folder / "annotations" / "captions_val2014.json"
    if captions:
        data = json.loads(path.read_text())
        data["annotations"] = [each | {"caption": captions} for each in data["annotations"]]
        path.write_text(json.dumps(data))
    with pytest.raises(MetricsError, match=rf"data, val can't be scored: {message}"):
        caption(tmp_path / "run", folder, f"encoder={encoder}", "cider=true")
    caption(tmp_path / "run", folder, f"encoder={encoder}")  # without CIDEr these data are fine
