"""The trainers, end to end and part by part: what they learn, what they leave alone, what they survive."""

import hashlib
import json
import random
import shutil

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from tests.support import drawings
from train.cache import CacheError, TokenCache
from train.captioner import CaptionerRecipe, Captioning, train_captioner
from train.checkpoint import load_checkpoint, save_checkpoint
from train.classifier import Classification, ClassifierRecipe, mean_average_precision, train_classifier
from train.labels import LabelError, read_labelled, read_words
from train.loop import TrainingError
from train.sampling import SeededDataset, StepBatches, draw_budget
from train.self_critical import self_critical_loss
from vlcap.data.captions import read_captions
from vlcap.model.encoder import Encoder
from vlcap.model.tokenizer import START, normalise_caption

TINY = ["encoder=lookupvit_test_patch8_48", "workers=0", "batch_size=24", "evaluate_every=100"]


def weights_hash(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def encoder_run(class_folder, tmp_path_factory):
    """A classifier of four colours, trained well enough to tell them apart."""
    out = tmp_path_factory.mktemp("classifier")
    recipe = ClassifierRecipe.load(
        None, [*TINY, "steps=60", "lr=3e-3", "budgets=[2,3]", "scale=[0.6,1]", "ema_decay=0.9", "mixup=0.2"]
    )
    return out, train_classifier(recipe, [str(class_folder)], out)


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


def test_the_classifier_learns(encoder_run):
    assert encoder_run[1]["top1@3"] > 0.8
    assert encoder_run[1]["top1@2"] > 0.6


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


def test_the_encoder_stays_as_it_was(captioner_run):
    from vlcap import Captioner

    out, _, before = captioner_run
    assert weights_hash(Captioner.from_pretrained(out / "captioner").model.encoder) == before


def test_the_encoder_has_no_optimiser_slot(encoder_run, captioned_folder, tmp_path):
    from timm.optim import create_optimizer_v2

    encoder = encoder_run[0] / "encoder"
    recipe = CaptionerRecipe.load(None, [f"encoder={encoder}", "vocab_size=60", "width=48", "heads=2"])
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


@pytest.mark.parametrize("trainer", ["classifier", "captioner"])
def test_interrupted_and_resumed_is_the_same_to_the_bit(
    trainer, class_folder, captioned_folder, encoder_run, tmp_path, monkeypatch
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
                f"encoder={encoder_run[0] / 'encoder'}",
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


def test_damaged_checkpoint_is_passed_over(tmp_path):
    for step in (1, 2, 3):
        newest = save_checkpoint(tmp_path, step, {"model": {"weight": torch.full((100,), float(step))}})
    assert [path.name[:13] for path in sorted(tmp_path.iterdir())] == ["step-00000002", "step-00000003"]
    whole = newest.read_bytes()
    flipped = whole.replace(torch.full((3,), 3.0).numpy().tobytes(), torch.full((3,), 4.0).numpy().tobytes(), 1)
    for damaged in (whole[:-200], flipped, b""):
        assert damaged != whole
        newest.write_bytes(damaged)
        with pytest.warns(UserWarning, match="step-00000003.*is damaged"):
            state = load_checkpoint(tmp_path)
        assert state["step"] == 2
        assert state["model"]["weight"][0] == 2


def test_batches_cover_each_epoch_once_and_start_anywhere():
    whole = list(StepBatches(images=10, batch_size=4, seed=1, start=0, stop=5))
    draws = [pair for batch in whole for pair in batch]
    assert sorted(index for _, index in draws[:10]) == sorted(index for _, index in draws[10:]) == list(range(10))
    assert [index for _, index in draws[:10]] != [index for _, index in draws[10:]]
    assert list(StepBatches(images=10, batch_size=4, seed=1, start=3, stop=5)) == whole[3:]
    halves = [list(StepBatches(10, 4, seed=1, start=0, stop=5, rank=rank, world=2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_a_draw_seeds_its_own_randomness():
    class Noise(torch.utils.data.Dataset):
        def __getitem__(self, i):
            return random.random(), np.random.rand(), torch.rand(1).item()

    noise = SeededDataset(Noise(), seed=3)
    assert noise[5, 0] == noise[5, 0]
    assert noise[5, 0] != noise[6, 0]
    assert len({round(value, 9) for value in noise[5, 0]}) == 3


def test_budgets_are_drawn_evenly_and_by_step():
    drawn = [draw_budget([3, 5, 7], seed=0, step=step) for step in range(3000)]
    assert all(900 < drawn.count(budget) < 1100 for budget in (3, 5, 7))
    assert drawn == [draw_budget([3, 5, 7], seed=0, step=step) for step in range(3000)]
    assert draw_budget(None, seed=0, step=0) is None


def test_words_are_the_captions_own(captioned_folder):
    train = read_words([str(captioned_folder)], "train", words=16)
    assert train.multi_label
    circle, ground = train.classes.index("circle"), train.classes.index("ground")
    assert train.targets[:8, circle].tolist() == [drawings.kind(i)[1] == "circle" for i in range(8)]
    assert train.targets[:8, ground].tolist() == pytest.approx([1 / 3] * 8)  # one of three captions has it
    val = read_words([str(captioned_folder)], "val", words=16, vocabulary=train.classes)
    assert val.classes == train.classes


def test_word_stage_runs(captioned_folder, tmp_path):
    recipe = ClassifierRecipe.load(None, [*TINY, "target=words", "words=12", "steps=30", "lr=3e-3", "cutmix=1.0"])
    figures = train_classifier(recipe, [str(captioned_folder)], tmp_path)
    assert figures["mAP@3"] > 0.5


def test_mean_average_precision_of_known_rankings():
    scores = torch.tensor([[4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0]])
    positive = torch.tensor([[True, True], [False, False], [True, False], [False, False]])
    # class 0: hits at ranks 1 and 3 -> (1 + 2/3) / 2; class 1: its only hit at rank 4 -> 1/4
    assert mean_average_precision(scores, positive) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 4) / 2)


def test_real_photos(real_data, tmp_path):
    """A few hundred real photos through both trainers: the path that people walk."""
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


@pytest.fixture
def cached(encoder_run, captioned_folder, tmp_path):
    encoder = Encoder.from_pretrained(encoder_run[0] / "encoder").without_heads().freeze()
    captions = read_captions(captioned_folder, "val")
    return encoder, captions, tmp_path / "tokens"


def test_cache_holds_what_the_encoder_says(cached):
    encoder, captions, root = cached
    cache = TokenCache(root, encoder, captions, budgets=[2, 3], views=2, augmentation={"scale": (0.5, 1)}).fill()
    pixels = torch.stack([encoder.pixels.eval_transform()(captions.image(i)) for i in (0, 5)])
    with torch.no_grad():
        live = encoder(encoder.pixels.normalize(pixels), budget=3).last_hidden_state
    torch.testing.assert_close(cache.read("budget3", [0, 5], view=0), live, atol=2e-3, rtol=2e-3)  # float16 on disk
    assert not torch.equal(cache.read("budget3", [0], view=1), cache.read("budget3", [0], view=0))
    assert sum(path.stat().st_size for path in cache.folder.glob("*.npy")) == pytest.approx(cache.size(), rel=0.01)


def test_cache_goes_on_where_it_stopped(cached, monkeypatch):
    encoder, captions, root = cached
    monkeypatch.setattr("train.cache.CHUNK", 7)
    encode, calls = TokenCache.compute, []

    def interrupted(self, places):
        calls.append(places)
        if len(calls) == 3:
            raise Interruption
        return encode(self, places)

    monkeypatch.setattr(TokenCache, "compute", interrupted)
    with pytest.raises(Interruption):
        TokenCache(root, encoder, captions, budgets=[2]).fill()
    resumed = TokenCache(root, encoder, captions, budgets=[2]).fill()
    assert calls[3][0] == (0, 14)  # (view, photo)
    whole = TokenCache(root.with_name("whole"), encoder, captions, budgets=[2]).fill()
    everything = range(len(captions))
    assert torch.equal(resumed.read("budget2", everything, view=0), whole.read("budget2", everything, view=0))


def test_cache_grows_by_views(cached):
    """Another view is added to those that are there, not all computed anew."""
    encoder, captions, root = cached
    two = TokenCache(root, encoder, captions, budgets=[2], views=2).fill()
    before = {path: path.stat().st_mtime_ns for path in two.folder.glob("*.npy")}
    three = TokenCache(root, encoder, captions, budgets=[2], views=3).fill()
    assert three.folder == two.folder
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not torch.equal(three.read("budget2", [0], view=2), three.read("budget2", [0], view=1))


def test_the_loss_is_the_same_from_the_cache(encoder_run, captioned_folder, tmp_path):
    losses = []
    for views in (0, 1):
        recipe = CaptionerRecipe.load(
            None,
            [
                f"encoder={encoder_run[0] / 'encoder'}",
                "vocab_size=60",
                "width=48",
                "heads=2",
                "budgets=[2,3]",
                f"cache_views={views}",
                "scale=[1,1]",
                "hflip=0",
                "dropout=0",
            ],
        )
        torch.manual_seed(0)
        task = Captioning(recipe, [str(captioned_folder)], tmp_path / "run")
        batch = task.collate([task.val_set[i] for i in range(16)])
        losses.append(task.cross_entropy(task.model, task.tokens(batch, task.val_set, 3), batch, smoothing=0.0).mean)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-3)  # float16 on disk


def test_cache_key_knows_all_it_depends_on(cached, captioned_folder):
    encoder, captions, root = cached

    def key(**changes):
        cache = TokenCache(
            root,
            changes.pop("encoder", encoder),
            changes.pop("captions", captions),
            **{"budgets": [2], "views": 2, **changes},
        )
        return cache.folder, *cache.files.values()

    assert key(views=3) == key(views=2)  # they are added to one another
    keys = [
        key(),
        key(budgets=[3]),
        key(seed=1),
        key(augmentation={"hflip": 0.0}),
        key(captions=read_captions(captioned_folder, "val", limit=5)),
    ]
    encoder.model.pos_embed.data[0, 0, 0] += 1e-4
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_cache_refuses_a_full_disk(cached, monkeypatch):
    encoder, captions, root = cached
    usage = shutil.disk_usage(root.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CacheError, match="GB free"):
        TokenCache(root, encoder, captions, budgets=[2]).fill()


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
    assert figures["CIDEr " + captioned_folder.name] > 50  # what it knew is not lost


def test_a_photos_first_captions_alone(encoder_run, captioned_folder, tmp_path):
    recipe = CaptionerRecipe.load(
        None, [f"encoder={encoder_run[0] / 'encoder'}", "captions_per_photo=1", "workers=0", "lowercase=false"]
    )
    task = Captioning(recipe, [str(captioned_folder)], tmp_path)
    firsts = [captions[0] for captions in task.train_set.rows[0][0].captions]
    assert any(len(captions) > 1 for captions in task.train_set.rows[0][0].captions)
    assert {len(pieces) for pieces in task.train_set.pieces} == {1}
    assert [task.tokenizer.decode(pieces, skip_special_tokens=True) for [pieces] in task.train_set.pieces] == [
        normalise_caption(text, lowercase=False) for text in firsts
    ]
    assert len(task.val_set.pieces[0]) > 1


def test_an_evaluation_shows_captions_and_warns_of_collapse(captioner_run, captioned_folder, tmp_path, monkeypatch):
    from vlcap import Captioner

    recipe = CaptionerRecipe.load(None, [f"start_from={captioner_run[0] / 'captioner'}", "workers=0"])
    task = Captioning(recipe, [str(captioned_folder)], tmp_path)
    figures, samples, warning = task.evaluate(task.model)
    assert warning is None
    assert figures[f"distinct % {captioned_folder.name}"] > 10  # a collapse is 1 of 24, 4 %
    assert [sample.split(":")[0] for sample in samples] == ["240", "248", "256"]
    assert all(drawings.kind(i)[0] in sample for i, sample in zip((240, 248, 256), samples, strict=True))
    monkeypatch.setattr(Captioner, "decode", lambda self, tokens, **generation: ["a dog"] * len(tokens))
    assert "1 distinct ones for 24 photos, 24 times 'a dog'" in task.evaluate(task.model).warning


def test_a_captioner_needs_something_to_read_with(captioned_folder, tmp_path):
    with pytest.raises(TrainingError, match="--encoder"):
        train_captioner(CaptionerRecipe.load(None), [str(captioned_folder)], tmp_path)


def labelled_dataset(count):
    """A Hugging Face data set of drawings, labelled by colour."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(drawings.COLOURS))}
    )
    return datasets.Dataset.from_dict(
        {"image": [drawings.draw(n) for n in range(count)], "label": [n % 4 for n in range(count)]}, features=features
    )


def test_labels_from_parquet(tmp_path):
    import datasets

    rows = labelled_dataset(8).with_format("arrow")
    rows = rows.map(datasets.table.embed_table_storage, batched=True).with_format(None)
    rows.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    labelled = read_labelled(str(tmp_path), "train")
    assert labelled.classes == list(drawings.COLOURS)
    assert labelled.targets.tolist() == [0, 1, 2, 3] * 2
    assert np.array_equal(np.asarray(labelled.load(5)), np.asarray(drawings.draw(5)))
    with pytest.raises(LabelError, match="no val split"):
        read_labelled(str(tmp_path), "val")


def test_labels_from_the_hub(tmp_path, monkeypatch):
    """By name; what the hub would send is made here, under the hub's own names for the splits."""
    import datasets

    def load_dataset(name, split):
        assert name == "someone/colours"
        if split != "validation":
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['validation'].")
        return labelled_dataset(8)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_labelled("someone/colours", "val").targets.tolist() == [0, 1, 2, 3] * 2
    with pytest.raises(LabelError, match="someone/colours has no train split"):
        read_labelled("someone/colours", "train")


def test_a_name_that_cannot_be_had():
    with pytest.raises(LabelError, match="no/such-data-set is neither a folder here"):
        read_labelled("no/such-data-set", "train")


def test_class_folders_are_classes(class_folder):
    labelled = read_labelled(str(class_folder), "train")
    assert labelled.classes == sorted(drawings.COLOURS)
    assert labelled.targets.bincount().tolist() == [60] * 4
    assert labelled.load(0).mode == "RGB"


def test_no_such_data(tmp_path):
    with pytest.raises(LabelError, match="no train split"):
        read_labelled(str(tmp_path), "train")


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
