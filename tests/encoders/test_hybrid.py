"""LookupViT over a convolutional trunk: tokens, cost, the frozen trunk, and training from cached features."""

import pytest
import timm
import torch
import torch.nn.functional as F

from encoders.cost import count_gflops
from tests.support import reference_lookupvit as reference
from tests.support.reference_lookupvit import layer_norm
from train.captioner import CaptionerRecipe, train_captioner
from train.classifier import Classification, ClassifierRecipe, train_classifier
from train.frozen import Frozen
from train.pretrained import PretrainedError
from train.teacher import start_from
from vlcap.captioner import Captioner
from vlcap.model.encoder import Encoder, digest_weights

TINY = "lookupvit_hybrid_test_64"


@pytest.fixture
def model():
    torch.manual_seed(0)
    hybrid = timm.create_model(TINY, num_classes=5).eval()
    for norm in hybrid.patch_embed.norms:  # new norms would hide their effect
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_()
    return hybrid


def lookup_grid(state, maps):
    """The lookup grid by hand, per image: LN over channels, 1 x 1 convolution, the coarser map resized to the finer."""
    grid = None
    for i, each in enumerate(maps):
        rows = each.flatten(1).T  # (h * w, C)
        rows = layer_norm(state, f"patch_embed.norms.{i}", rows)
        rows = rows @ state[f"patch_embed.projections.{i}.weight"].flatten(1).T
        rows = rows + state[f"patch_embed.projections.{i}.bias"]
        if grid is None:
            grid, size = rows, each.shape[1:]
        else:
            picture = rows.T.unflatten(1, each.shape[1:])[None]
            grid = grid + F.interpolate(picture, size=size, mode="bilinear", align_corners=False)[0].flatten(1).T
    return grid


@pytest.mark.parametrize("budget", [2, 3])
def test_tokens_are_the_references(model, budget, monkeypatch):
    """The trunk's maps, joined by hand, instead of patches; from there on the reference written from the paper."""
    model, pixels = model.double(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        maps = model.trunk_features(pixels)
        images = iter(range(len(pixels)))
        monkeypatch.setattr(
            reference,
            "patch_features",
            lambda state, image, patch_size: lookup_grid(state, [each[i] for i in [next(images)] for each in maps]),
        )
        compressed, lookup, _ = reference.tokens(model.state_dict(), pixels, budget, 2, 16, (4, 4))
        found = model.forward_features(pixels, budget)
        torch.testing.assert_close(found[0], compressed, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found[1], lookup, rtol=1e-6, atol=1e-8)


def test_kept_features_give_the_same_tokens(model):
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = model.trunk_features(pixels)
        assert [tuple(each.shape[-2:]) for each in features] == [(4, 4), (2, 2)]
        assert torch.equal(model.forward_tokens(pixels, 3), model.forward_tokens(features, 3))
        assert torch.equal(model(pixels), model(features))


@pytest.mark.slow
def test_other_sizes_strides_and_trunks():
    for kwargs in (
        {"trunk_indices": [3]},
        {"trunk": "resnet18", "trunk_indices": [3, 4]},
        {"trunk": "convnext_atto", "trunk_indices": [2, 3]},
        {"img_size": 96},
    ):
        model = timm.create_model(TINY, num_classes=0, **kwargs)
        size = kwargs.get("img_size", 64)
        assert model.forward_tokens(torch.randn(1, 3, size, size), 3).shape == (1, 9, 64)
        assert model.forward_tokens(torch.randn(1, 3, 128, 96), 3).shape == (1, 9, 64)  # positions are resampled
    with pytest.raises(ValueError, match="not a multiple of the patch size 16"):
        model.forward_tokens(torch.randn(1, 3, 50, 50))


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"trunk": "local-dir:/etc"}, "is not a timm model"),
        ({"trunk": "hf-hub:somebody/something"}, "is not a timm model"),
        ({"trunk": "no_such_model"}, "is not a timm model"),
        ({"trunk_indices": [1, 2, 3]}, "name one feature map or two"),
        ({"trunk_indices": [30]}, "gives no feature maps"),
    ],
)
def test_what_is_no_trunk_is_refused(kwargs, said):
    """A captioner folder names its trunk: nothing may be downloaded or opened by that name."""
    with pytest.raises(ValueError, match=said):
        timm.create_model(TINY, **kwargs)


@pytest.mark.slow
def test_the_trunk_is_counted():
    """Each convolution from the shape of its output; the blocks by equation 6."""
    with torch.device("meta"):
        hybrid = timm.create_model("lookupvit_hybrid_lite2_224", num_classes=0)
        bare = timm.create_model("lookupvit_hybrid_lite2_224", num_classes=0, depth=0)
    macs = []
    for module in bare.patch_embed.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda conv, _, y: macs.append(y[0, 0].numel() * conv.weight.numel()))
    trunk = count_gflops(bare, budget=5)
    assert trunk == pytest.approx(2 * sum(macs) / 1e9, rel=1e-6)
    d, n, m = 256, 14 * 14, 25
    blocks = count_gflops(hybrid, budget=5) - trunk
    hybrid.set_reassociation(False)
    papers = count_gflops(hybrid, budget=5) - trunk
    one = (3 * n * m + 2 * m * m) * d + (4 * n + 15 * m) * d * d
    unread = n * m * d + m * d * d + 2 * n * d * d  # the last block's infusion and its lookup MLP
    assert papers == pytest.approx(2 * (2 * one - unread) / 1e9, rel=0.01)
    assert blocks < papers


@pytest.mark.slow
def test_a_frozen_trunk_stays_as_it_is(class_folder, tmp_path):
    start = Encoder.create(TINY)
    start.save_pretrained(tmp_path / "start")
    recipe = ClassifierRecipe.load(
        None,
        [f"encoder={tmp_path / 'start'}", "steps=6", "batch_size=16", "workers=0", "cache_views=2", "budgets=[2,3]"],
    )
    figures = train_classifier(recipe, [str(class_folder)], tmp_path / "run")
    trained = Encoder.load(tmp_path / "run" / "encoder")
    assert digest_weights(trained.model.trunk) == digest_weights(start.model.trunk)  # batch norms' statistics too
    assert not torch.equal(trained.model.blocks[0].gather.q.weight, start.model.blocks[0].gather.q.weight)
    assert {"top1@2", "top1@3"} <= figures.keys()
    live = ClassifierRecipe.load(
        None, [f"encoder={tmp_path / 'start'}", "steps=1", "batch_size=16", "workers=0", "freeze_trunk=false"]
    )
    train_classifier(live, [str(class_folder)], tmp_path / "live")
    moved = Encoder.load(tmp_path / "live" / "encoder")
    assert digest_weights(moved.model.trunk) != digest_weights(start.model.trunk)


@pytest.mark.slow
def test_features_in_the_cache_are_the_trunks(class_folder, tmp_path):
    recipe = ClassifierRecipe.load(None, [f"encoder={TINY}", "cache_views=2", "scale=[0.3,1]", "limit=12", "workers=0"])
    task = Classification(recipe, [str(class_folder)], tmp_path / "run")
    items = [task.train_set[i] for i in range(6)]
    batch = task.collate(items)
    cache = task.train_set.caches[0]
    pixels = cache.pixels_of([(view, i) for _, i, view in batch.places.tolist()])
    with torch.no_grad():
        live = task.model.eval().trunk_features(task.pixels.normalize(pixels))
    for kept, expected in zip(task.seen(batch, task.train_set, pixels.device), live, strict=True):
        torch.testing.assert_close(kept, expected, rtol=2e-3, atol=2e-3)  # float16 on disk


@pytest.mark.slow
def test_captioner_reads_the_features_that_the_classifier_left(captioned_folder, tmp_path, capfd):
    words = ClassifierRecipe.load(
        None,
        [
            f"encoder={TINY}",
            "target=words",
            "words=20",
            "steps=3",
            "batch_size=16",
            "workers=0",
            "cache_views=2",
            "scale=[0.6,1]",
            "budgets=[2,3]",
            "limit=40",
        ],
    )
    train_classifier(words, [str(captioned_folder)], tmp_path / "words")
    capfd.readouterr()
    recipe = CaptionerRecipe.load(
        None,
        [
            f"encoder={tmp_path / 'words' / 'encoder'}",
            "cache_views=2",
            "scale=[0.6,1]",
            "steps=3",
            "batch_size=16",
            "workers=0",
            "vocab_size=60",
            "width=32",
            "heads=2",
            "layers=1",
            "budgets=[2,3]",
            "limit=40",
            "cider=false",
        ],
    )
    train_captioner(recipe, [str(captioned_folder)], tmp_path / "captioner")
    said = capfd.readouterr().err
    assert "tokens of" in said and "trunk features" not in said
    captioner = Captioner.from_pretrained(tmp_path / "captioner" / "captioner")  # the trunk came along
    encoder = Encoder.load(tmp_path / "words" / "encoder")
    assert digest_weights(captioner.model.encoder.model.trunk) == digest_weights(encoder.model.trunk)
    photo = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = encoder.eval()(encoder.pixels.normalize(photo), budget=3).last_hidden_state
    torch.testing.assert_close(captioner.encode(photo, budget=3), expected)


def test_trunk_starts_from_the_classifier_that_it_belongs_to(tmp_path):
    torch.manual_seed(1)
    classifier = timm.create_model("test_efficientnet")
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    encoder = Encoder.create(TINY)
    start_from(encoder, f"test_efficientnet@{tmp_path / 'weights.pth'}")
    for name, weight in encoder.model.trunk.state_dict().items():
        assert torch.equal(weight, classifier.state_dict()[name]), name
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "other.pth")
    with pytest.raises(PretrainedError, match="not the classifier of this encoder's trunk"):
        start_from(encoder, f"test_resnet@{tmp_path / 'other.pth'}")


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.slow
def test_trunk_and_teacher_answer_together_as_apart(shared):
    """One pass if the teacher's trunk is the encoder's, otherwise two; ONNX Runtime and PyTorch agree."""
    torch.manual_seed(0)
    encoder, teacher = Encoder.create(TINY), timm.create_model("test_efficientnet").eval()
    teacher.pretrained_cfg |= {"mean": encoder.pixels.mean, "std": encoder.pixels.std}
    if shared:
        encoder.model.trunk.load_state_dict(teacher.state_dict(), strict=False)
    frozen = Frozen(encoder.pixels, encoder.model.trunk, teacher, teacher_size=64, features=True)
    assert (frozen.shared is not None) == shared
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    x = encoder.pixels.normalize(pixels)
    with torch.no_grad():
        expected = [
            *encoder.model.eval().trunk_features(x),
            teacher(x),
            teacher.forward_head(teacher.forward_features(x), pre_logits=True),
        ]
    for answers in (frozen.run(pixels), frozen.run(pixels, photos=3)):  # PyTorch, if they are few
        for found, wanted in zip(answers, expected, strict=True):
            torch.testing.assert_close(torch.as_tensor(found), wanted, rtol=1e-3, atol=1e-4)
