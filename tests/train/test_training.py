"""The trainers, end to end: what they learn, what they leave unchanged, and that a resumed run is exact."""

import hashlib
import json

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from tests.support import drawings
from train.captioner import CaptionerRecipe, Captioning, train_captioner
from train.checkpoint import load_checkpoint
from train.classifier import Classification, ClassifierRecipe, mean_average_precision, train_classifier
from train.loop import TrainingError
from train.self_critical import self_critical_loss
from vlcap.data.captions import read_captions
from vlcap.model.encoder import Encoder
from vlcap.model.tokenizer import START, normalize_caption

pytestmark = pytest.mark.usefixtures("quick_curves")  # the runs that tests share draw theirs

TINY = ["encoder=lookupvit_test_patch8_48", "workers=0", "batch_size=24", "evaluate_every=100"]


def weights_hash(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def encoder_run(class_folder, tmp_path_factory):
    """A classifier of four colors, trained until it can tell them apart."""
    out = tmp_path_factory.mktemp("classifier")
    recipe = ClassifierRecipe.load(
        None, [*TINY, "steps=60", "lr=3e-3", "budgets=[2,3]", "scale=[0.6,1]", "ema_decay=0.9", "mixup=0.2"]
    )
    return out, train_classifier(recipe, [str(class_folder)], out)


@pytest.fixture
def untrained(tmp_path):
    """Folder of an encoder with random weights."""
    torch.manual_seed(0)
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(tmp_path / "untrained")
    return tmp_path / "untrained"


@pytest.fixture(scope="module")
def captioner_run(encoder_run, captioned_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("captioner")
    encoder = encoder_run[0] / "encoder"
    recipe = CaptionerRecipe.load(
        None,
        [
            f"encoder={encoder}",
            "workers=0",
            "batch_size=24",
            "steps=120",
            "lr=3e-3",
            "vocab_size=60",
            "width=48",
            "layers=1",
            "heads=2",
            "budgets=[2,3]",
            "evaluate_every=100",
            "max_length=16",
        ],
    )
    before = weights_hash(Encoder.from_pretrained(encoder).without_heads())
    return out, train_captioner(recipe, [str(captioned_folder)], out), before


@pytest.mark.slow
def test_the_classifier_learns(encoder_run):
    assert encoder_run[1]["top1@3"] > 0.8
    assert encoder_run[1]["top1@2"] > 0.6


@pytest.mark.slow
def test_the_captioner_says_what_it_sees(captioner_run, captioned_folder):
    from vlcap import Captioner

    out, figures, _ = captioner_run
    captioner = Captioner.from_pretrained(out / "captioner")
    captions = read_captions(captioned_folder, "val")
    texts = captioner.caption([captions.image(i) for i in range(len(captions))])
    right = sum(drawings.kind(i)[0] in text for i, text in zip(captions.image_ids, texts, strict=True))
    assert right > 0.7 * len(texts), texts
    assert figures[f"CIDEr {captions.name}"] > 50
    assert captioner.budgets == [2, 3]


@pytest.mark.slow
def test_the_encoder_stays_as_it_was(captioner_run):
    from vlcap import Captioner

    out, _, before = captioner_run
    assert weights_hash(Captioner.from_pretrained(out / "captioner").model.encoder) == before


@pytest.mark.slow
def test_the_encoder_has_no_optimizer_slot(untrained, captioned_folder, tmp_path):
    from timm.optim import create_optimizer_v2

    recipe = CaptionerRecipe.load(None, [f"encoder={untrained}", "vocab_size=60", "width=48", "heads=2"])
    task = Captioning(recipe, [str(captioned_folder)], tmp_path)
    task.model.train()
    optimizer = create_optimizer_v2(task.model, opt="adamw", lr=1e-3, weight_decay=0.1)
    slots = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert slots == {id(p) for p in task.model.parameters() if p.requires_grad}
    assert not slots & {id(p) for p in task.model.encoder.parameters()}
    batch = task.collate([task.train_set[i] for i in range(4)])
    task.loss(task.model, batch, None).mean.backward()
    assert all(p.grad is None for p in task.model.encoder.parameters())


class Interruption(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["classifier", "captioner"])
def test_interrupted_and_resumed_is_the_same_to_the_bit(
    trainer, class_folder, captioned_folder, untrained, tmp_path, monkeypatch
):
    if trainer == "classifier":
        recipe = ClassifierRecipe.load(
            None,
            [
                *TINY,
                "steps=7",
                "save_every=3",
                "budgets=[2,3]",
                "ema_decay=0.9",
                "mixup=0.2",
                "cutmix=1.0",
                "dropout=0.1",
                "drop_path=0.1",
                "auto_augment=rand-n2-m10-mstd0.5",
            ],
        )
        task, run = Classification, lambda out: train_classifier(recipe, [str(class_folder)], out)
    else:
        recipe = CaptionerRecipe.load(
            None,
            [
                f"encoder={untrained}",
                "workers=0",
                "batch_size=24",
                "steps=7",
                "save_every=3",
                "vocab_size=60",
                "width=48",
                "heads=2",
                "layers=1",
                "budgets=[2,3]",
                "cider=false",
                "cache_views=2",
            ],
        )
        task, run = Captioning, lambda out: train_captioner(recipe, [str(captioned_folder)], out)
    run(tmp_path / "whole")

    loss = task.loss
    calls = []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 6:
            raise Interruption
        return loss(self, *arguments)

    monkeypatch.setattr(task, "loss", interrupted)
    with pytest.raises(Interruption):
        run(tmp_path / "halves")
    monkeypatch.setattr(task, "loss", loss)
    assert load_checkpoint(tmp_path / "halves" / "checkpoints")["step"] == 3
    run(tmp_path / "halves")

    whole, halves = (load_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "halves"))
    assert whole["step"] == halves["step"] == 7
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, halves["model"][name]), name


@pytest.mark.slow
def test_a_folder_belongs_to_one_recipe(class_folder, tmp_path):
    recipe = ClassifierRecipe.load(None, [*TINY, "steps=1"])
    train_classifier(recipe, [str(class_folder)], tmp_path)
    with pytest.raises(TrainingError, match=r"lr: 0\.5"):
        train_classifier(ClassifierRecipe.load(None, [*TINY, "steps=1", "lr=0.5"]), [str(class_folder)], tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(class_folder, tmp_path, monkeypatch):
    loss = Classification.loss
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(Classification, "loss", lambda *arguments: loss(*arguments)._replace(mean=nan))
    with pytest.raises(TrainingError, match="last good weights"):
        train_classifier(ClassifierRecipe.load(None, [*TINY, "steps=2"]), [str(class_folder)], tmp_path)


@pytest.mark.slow
def test_word_stage_runs(captioned_folder, tmp_path):
    recipe = ClassifierRecipe.load(None, [*TINY, "target=words", "words=12", "steps=30", "lr=3e-3", "cutmix=1.0"])
    figures = train_classifier(recipe, [str(captioned_folder)], tmp_path)
    assert figures["mAP@3"] > 0.5


def test_mean_average_precision_of_known_rankings():
    scores = torch.tensor([[4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0]])
    positive = torch.tensor([[True, True], [False, False], [True, False], [False, False]])
    # class 0: hits at ranks 1 and 3 -> (1 + 2/3) / 2; class 1: its only hit at rank 4 -> 1/4
    assert mean_average_precision(scores, positive) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 4) / 2)


@pytest.mark.slow
def test_real_photos(real_data, tmp_path):
    """Trains both on a few hundred real photos, as a user would."""
    if real_data is None:
        pytest.skip("real photos not present")
    from vlcap import Captioner

    recipe = ClassifierRecipe.load(None, [*TINY, "limit=200", "steps=8", "budgets=[2,3]"])
    train_classifier(recipe, [str(real_data / "tiny-imagenet-200")], tmp_path / "classifier")
    recipe = CaptionerRecipe.load(
        None,
        [
            f"encoder={tmp_path / 'classifier' / 'encoder'}",
            "limit=100",
            "steps=8",
            "batch_size=24",
            "workers=0",
            "width=48",
            "heads=2",
            "layers=1",
            "vocab_size=300",
            "cache_views=1",
            "evaluate_every=100",
        ],
    )
    data = [str(real_data / "coco-6k-144"), str(real_data / "flickr8k-144")]
    figures = train_captioner(recipe, data, tmp_path / "captioner")
    assert {"CIDEr coco-6k-144", "CIDEr flickr8k-144"} <= figures.keys()
    captioner = Captioner.from_pretrained(tmp_path / "captioner" / "captioner")
    assert captioner.caption([read_captions(data[0], "test", limit=1).image(0)])


@pytest.mark.slow
def test_self_critical_training_makes_the_rewarded_likelier(captioner_run):
    from vlcap import Captioner

    captioner = Captioner.from_pretrained(captioner_run[0] / "captioner")
    model, wanted = captioner.model, captioner.tokenizer("there is")["input_ids"][0]
    tokens = captioner.encode(captioner.preprocess([drawings.draw(n) for n in range(8)]), budget=3).clone()

    class Reward:
        def score(self, image, caption):
            assert 0 <= image < 8
            return float(caption[0] == wanted)

    def likelihood():
        with torch.no_grad():
            states = BaseModelOutput(last_hidden_state=tokens)
            logits = model(encoder_outputs=states, decoder_input_ids=torch.full((8, 1), START)).logits
        return logits[:, 0].softmax(dim=-1)[:, wanted].mean().item()

    torch.manual_seed(0)
    before = likelihood()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(20):
        self_critical_loss(model, model, tokens, range(8), Reward(), samples=5).mean.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert likelihood() > min(0.9, before + 0.2)


@pytest.mark.slow
def test_samples_are_drawn_as_the_model_says_not_as_it_is_served(captioner_run):
    from vlcap import Captioner

    captioner = Captioner.from_pretrained(captioner_run[0] / "captioner")
    tokens = captioner.encode(captioner.preprocess([drawings.draw(n) for n in range(4)]), budget=3).clone()
    drawn = []

    class Reward:
        def score(self, image, caption):
            drawn[-1].append(tuple(caption))
            return 0.0

    for penalty in (1.0, 50.0):
        captioner.model.generation_config.repetition_penalty = penalty
        drawn.append([])
        torch.manual_seed(0)
        self_critical_loss(captioner.model, captioner.model, tokens, range(4), Reward(), samples=5)
    assert drawn[0] == drawn[1]


@pytest.mark.slow
def test_self_critical_run_starts_from_a_captioner(captioner_run, captioned_folder, tmp_path):
    recipe = CaptionerRecipe.load(
        None,
        [
            f"start_from={captioner_run[0] / 'captioner'}",
            "self_critical=3",
            "steps=4",
            "batch_size=8",
            "workers=0",
            "lr=1e-4",
            "cache_views=1",
            "budgets=[2,3]",
            "evaluate_every=100",
        ],
    )
    figures = train_captioner(recipe, [str(captioned_folder)], tmp_path)
    assert figures["CIDEr " + captioned_folder.name] > 50  # it hasn't unlearned


@pytest.mark.slow
def test_a_photos_first_captions_alone(untrained, captioned_folder, tmp_path):
    recipe = CaptionerRecipe.load(
        None, [f"encoder={untrained}", "captions_per_photo=1", "workers=0", "lowercase=false"]
    )
    task = Captioning(recipe, [str(captioned_folder)], tmp_path)
    firsts = [captions[0] for captions in task.train_set.rows[0][0].captions]
    assert any(len(captions) > 1 for captions in task.train_set.rows[0][0].captions)
    assert {len(pieces) for pieces in task.train_set.pieces} == {1}
    assert [task.tokenizer.decode(pieces, skip_special_tokens=True) for [pieces] in task.train_set.pieces] == [
        normalize_caption(text, lowercase=False) for text in firsts
    ]
    assert len(task.val_set.pieces[0]) > 1


@pytest.mark.slow
def test_an_evaluation_shows_captions_and_warns_of_collapse(captioner_run, captioned_folder, tmp_path, monkeypatch):
    from vlcap import Captioner

    recipe = CaptionerRecipe.load(None, [f"start_from={captioner_run[0] / 'captioner'}", "workers=0"])
    task = Captioning(recipe, [str(captioned_folder)], tmp_path)
    figures, samples, warning = task.evaluate(task.model)
    assert warning is None
    assert figures[f"distinct % {captioned_folder.name}"] > 10  # a collapse has 1 of 24, 4 %
    assert [sample.split(":")[0] for sample in samples] == ["240", "248", "256"]
    assert all(drawings.kind(i)[0] in sample for i, sample in zip((240, 248, 256), samples, strict=True))
    monkeypatch.setattr(Captioner, "decode", lambda self, tokens, **generation: ["a dog"] * len(tokens))
    assert "1 distinct ones for 24 photos, 24 times 'a dog'" in task.evaluate(task.model).warning


def test_a_captioner_needs_something_to_read_with(captioned_folder, tmp_path):
    with pytest.raises(TrainingError, match="--encoder"):
        train_captioner(CaptionerRecipe.load(None), [str(captioned_folder)], tmp_path)


@pytest.mark.slow
def test_a_run_saves_its_recipe_and_log(encoder_run):
    out, _ = encoder_run
    assert ClassifierRecipe.load(str(out / "recipe.yaml")).lr == 3e-3
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert {"step", "loss", "lr"} <= lines[0].keys()
    assert lines[-1]["top1@3"] > 0
    assert (out / "curves.png").stat().st_size > 5000
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(out / "tensorboard")).Reload()
    assert {"loss", "lr", "top1/budget 3"} <= set(board.Tags()["scalars"])
