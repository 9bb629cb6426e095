"""Initial weights from a plain ViT, and distillation from it."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

import encoders  # noqa: F401 - registers them
from train.classifier import Classification, ClassifierRecipe, train_classifier
from train.frozen import Frozen
from train.loop import TrainingError
from train.pretrained import PretrainedError, load_classifier
from train.teacher import distillation_loss, feature_loss, start_from
from vlcap.model.encoder import Encoder

pytestmark = pytest.mark.usefixtures("quick_curves")

VIT = {"img_size": 48, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}


def vit_folder(folder, num_classes=4, mean=0.4, **changes):
    """A ViT as the hub would deliver it: config.json and model.safetensors with random weights."""
    torch.manual_seed(1)
    arguments = {**VIT, **changes}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=num_classes, **arguments)
    folder.mkdir(exist_ok=True)
    save_file(vit.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architecture": "vit_tiny_patch16_224",
                "num_classes": num_classes,
                "model_args": arguments,
                "pretrained_cfg": {
                    "input_size": [3, arguments["img_size"], arguments["img_size"]],
                    "mean": [mean] * 3,
                    "std": [0.25] * 3,
                    "num_classes": num_classes,
                    "classifier": "head",
                    "first_conv": "patch_embed.proj",
                },
            }
        )
    )
    return f"local-dir:{folder}", vit.eval()


def test_the_vit_parts_are_the_vits(tmp_path):
    name, vit = vit_folder(tmp_path / "vit")
    encoder = Encoder.create("lookupvit_test_patch8_48", classes=["a", "b"])
    before = {key: weight.clone() for key, weight in encoder.model.state_dict().items()}
    start_from(encoder, name)
    model = encoder.model
    x = torch.randn(2, 9, 64)
    for ours, theirs in zip(model.blocks, vit.blocks, strict=True):
        torch.testing.assert_close(ours.refine(x), theirs(x))
    pixels = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(model.patch_embed(pixels).flatten(1, 2), vit.patch_embed(pixels))
    torch.testing.assert_close(model.pos_embed, vit.pos_embed[:, 1:])  # without the class token's position
    torch.testing.assert_close(model.norm(x), vit.norm(x))
    for key, weight in model.state_dict().items():
        if "gather" in key or "infuse" in key or key.startswith("head"):
            assert torch.equal(weight, before[key]), key
    assert encoder.pixels.mean == (0.4, 0.4, 0.4)


def test_other_grids_and_patches_are_resampled(tmp_path):
    name, vit = vit_folder(tmp_path / "vit", img_size=64, patch_size=16)
    encoder = Encoder.create("lookupvit_test_patch8_48")
    start_from(encoder, name)
    assert encoder.model.pos_embed.shape == (1, 36, 64)
    flat = torch.full((1, 3, 48, 48), 0.7)  # a patch of one color has about the same embedding at any size
    ours = encoder.model.patch_embed(flat)[0, 0, 0]
    theirs = vit.patch_embed(torch.full((1, 3, 64, 64), 0.7))[0, 0]
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.9


@pytest.mark.slow
def test_what_does_not_fit_is_named(tmp_path):
    encoder = Encoder.create("lookupvit_test_patch8_48")
    with pytest.raises(PretrainedError, match="64 wide and 3 blocks deep, lookupvit_test_patch8_48 64 and 2"):
        start_from(encoder, vit_folder(tmp_path / "deep", depth=3)[0])
    with pytest.raises(PretrainedError, match=r"scale|ls1|gamma"):
        start_from(encoder, vit_folder(tmp_path / "scaled", init_values=1e-5)[0])
    with pytest.raises(PretrainedError, match="no_such_vit: timm can't load a pretrained model"):
        start_from(encoder, "no_such_vit")
    with pytest.raises(PretrainedError, match="fills a LookupViT"):
        start_from(Encoder.create("vit_tiny_patch16_224"), vit_folder(tmp_path / "vit")[0])


def test_the_teacher_sees_what_it_is_used_to(tmp_path):
    """The student's normalization is undone, the teacher's normalization and size applied: the loss is as defined."""
    name, vit = vit_folder(tmp_path / "vit", img_size=64)
    encoder = Encoder.create("lookupvit_test_patch8_48")
    teacher = Frozen(encoder.pixels, teacher=load_classifier(name))
    photos = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    seen = (photos.float() / 255 - 0.4) / 0.25
    logits = [torch.randn(3, 4), torch.randn(3, 4)]
    with torch.no_grad():
        p = (vit(seen) / 2).softmax(dim=1)
    expected = sum(4 * (p * (p.log() - (each / 2).log_softmax(dim=1))).sum(dim=1).mean() for each in logits) / 2
    got = distillation_loss(logits, teacher(photos)[0], temperature=2.0)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_student_learns_from_the_teacher(class_folder, tmp_path):
    name, _ = vit_folder(tmp_path / "vit")
    recipe = ClassifierRecipe.load(
        None,
        [
            "encoder=lookupvit_test_patch8_48",
            f"init_from={name}",
            f"teacher={name}",
            "teacher_weight=1.0",
            "steps=30",
            "batch_size=24",
            "lr=3e-3",
            "workers=0",
            "budgets=[2,3]",
            "scale=[0.6,1]",
        ],
    )
    task = Classification(recipe, [str(class_folder)], tmp_path / "run")
    assert not any(parameter.requires_grad for parameter in task.frozen.parameters())
    train_classifier(recipe, [str(class_folder)], tmp_path / "run")
    encoder = Encoder.from_pretrained(tmp_path / "run" / "encoder")
    pixels = torch.stack([task.val_set[i][0] for i in range(24)])
    seen = encoder.pixels.normalize(pixels)
    with torch.no_grad():
        taught = task.frozen(pixels)[0]
        before = distillation_loss([task.model.eval()(seen)], taught, temperature=1.0)
        after = distillation_loss([encoder.eval().model(seen)], taught, temperature=1.0)
    assert after < before / 2


@pytest.mark.slow
@pytest.mark.parametrize("cache_views", [0, 2])
def test_other_classes_get_a_head_of_their_own(class_folder, tmp_path, cache_views):
    """The teacher has seven classes, the photos four: both are learned, live and from the cache."""
    name, _ = vit_folder(tmp_path / "vit", num_classes=7)
    recipe = ClassifierRecipe.load(
        None,
        [
            "encoder=lookupvit_test_patch8_48",
            f"teacher={name}",
            "teacher_head=own",
            "feature_weight=1",
            "lr=3e-3",
            "steps=30",
            "batch_size=24",
            "workers=0",
            "budgets=[2,3]",
            "scale=[0.6,1]",
            f"cache_views={cache_views}",
        ],
    )
    task = Classification(recipe, [str(class_folder)], tmp_path / "run")
    batch = task.collate([task.train_set[i] for i in range(0, 240, 10)])

    def distances():
        outputs = task.model.train()(task.seen(batch, task.train_set, torch.device("cpu")), budget=3)
        logits, features = task.teacher_outputs(batch, task.train_set, torch.device("cpu"))
        assert logits.shape == (24, 7) and outputs.own[0].shape == (24, 4)
        return distillation_loss(outputs.taught, logits, 1.0).item(), feature_loss(outputs.features, features).item()

    before = distances()
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=3e-3)
    for _ in range(30):
        task.loss(task.model, batch, 3).mean.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(now < then / 2 for now, then in zip(distances(), before, strict=True))

    train_classifier(recipe, [str(class_folder)], tmp_path / "run")
    encoder = Encoder.load(tmp_path / "run" / "encoder")  # without the heads that only distillation needs
    assert len(encoder.config.classes) == 4 and encoder.model.head.out_features == 4


def test_what_cannot_be_cached_or_taught_is_refused(class_folder, tmp_path):
    name, _ = vit_folder(tmp_path / "vit")
    for settings, said in (
        ([f"teacher={name}", "encoder=lookupvit_test_patch8_48", "cache_views=2", "mixup=0.2"], "mixup and cutmix"),
        (["encoder=lookupvit_test_patch8_48", "cache_views=2"], "this run has neither"),
    ):
        with pytest.raises(TrainingError, match=said):
            Classification(ClassifierRecipe.load(None, settings), [str(class_folder)], tmp_path / "run")
    other, _ = vit_folder(tmp_path / "other", num_classes=7)
    recipe = ClassifierRecipe.load(None, ["encoder=lookupvit_test_patch8_48", f"teacher={other}"])
    with pytest.raises(PretrainedError, match=r"has 7 classes, the photos have 4: teacher_head=own"):
        Classification(recipe, [str(class_folder)], tmp_path / "run")


def test_the_teacher_sees_mixed_photos(class_folder, tmp_path, monkeypatch):
    name, _ = vit_folder(tmp_path / "vit")
    recipe = ClassifierRecipe.load(
        None, ["encoder=lookupvit_test_patch8_48", f"teacher={name}", "mixup=0.8", "workers=0", "scale=[0.6,1]"]
    )
    task = Classification(recipe, [str(class_folder)], tmp_path / "run")
    batch = task.collate([task.train_set[i] for i in range(0, 240, 60)])
    shown, model, teacher = [], task.model, task.frozen.forward
    monkeypatch.setattr(task.frozen, "forward", lambda pixels: shown.append(pixels) or teacher(pixels))
    model.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    task.loss(model.train(), batch, 3)
    student, theirs = shown
    torch.testing.assert_close(task.pixels.normalize(theirs.round().byte()), student, rtol=0.02, atol=0.01)
    assert not torch.allclose(theirs, batch.photos.float(), atol=1)  # they were mixed
