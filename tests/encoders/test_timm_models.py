"""Any timm model with a spatial feature map is an encoder: its last feature map's positions are the tokens."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F

from encoders import create_encoder
from encoders.cost import count_gflops
from tests.support import drawings
from train.classifier import ClassifierRecipe, train_classifier
from vlcap.captioner import Captioner
from vlcap.model.build import build_model
from vlcap.model.encoder import Encoder
from vlcap.model.tokenizer import train_tokenizer

VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3}
SWIN = {"img_size": 64, "window_size": 2, "depths": [1, 1], "embed_dim": 16, "num_heads": [1, 2]}
MODELS = {  # architecture: (arguments, side of its grid, class and register tokens)
    "test_vit": ({"img_size": 64}, 4, 1),
    "vit_base_patch16_siglip_224": ({"img_size": 64, **VIT}, 4, 0),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 56, **VIT}, 4, 5),
    "test_efficientnet": ({"img_size": 96}, 3, 0),
    "test_convnext": ({"img_size": 64}, 2, 0),
    "test_resnet": ({"img_size": 64}, 2, 0),
    "swin_tiny_patch4_window7_224": (SWIN, 8, 0),
}
every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_tokens_are_positions_of_the_last_feature_map(name):
    arguments, side, prefix = MODELS[name]
    encoder = create_encoder(name, num_classes=3, **arguments).eval()
    size = arguments["img_size"]
    pixels = torch.randn(2, 3, size, size)
    with torch.no_grad():
        features, tokens = encoder.forward_features(pixels), encoder.forward_tokens(pixels)
        pooled, logits = encoder.forward_pooled(pixels), encoder(pixels)
    assert tokens.shape == (2, encoder.token_count(encoder.budget, size), encoder.num_features)
    assert tokens.shape[1] == side**2 + prefix
    assert encoder.budgets == (side,) == (encoder.grid_side(size),)
    if features.ndim == 4 and encoder.layout == "NCHW":
        position = F.layer_norm(features[:, :, 1, 0], (encoder.num_features,))
        torch.testing.assert_close(tokens[:, side], position)  # row 1, column 0
    elif features.ndim == 4:
        assert torch.equal(tokens[:, side], features[:, 1, 0])
    else:
        assert torch.equal(tokens, features)
    torch.testing.assert_close(encoder.get_classifier()(pooled[0]), logits)
    assert pooled[0].shape == (2, encoder.head_hidden_size)
    for call in (encoder.forward_tokens, encoder.forward_pooled, encoder):
        with pytest.raises(ValueError, match=f"no choice of budget: it is {side}"):
            call(pixels, budget=side + 1)
    with pytest.raises(ValueError, match=f"images of {size} pixels, not of {size + 32}"):
        encoder.grid_side(size + 32)


@every_model
def test_names_of_weights_are_timms(name):
    arguments = {**MODELS[name][0], "num_classes": 3}
    encoder = create_encoder(name, **arguments)
    known = {key: value for key, value in arguments.items() if key != "img_size"}
    plain = timm.create_model(name, **(known if encoder.layout == "NCHW" else arguments))
    assert list(encoder.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in encoder.named_parameters()] == [name for name, _ in plain.named_parameters()]
    encoder.load_state_dict(plain.state_dict())
    heads = {key.removesuffix(".weight") for key in encoder.state_dict().keys() - encoder.headless_state_dict().keys()}
    assert encoder.pretrained_cfg["classifier"] in heads and len(heads) == 2  # a weight and a bias


@pytest.mark.slow
@every_model
def test_cost_is_counted_without_memory(name):
    arguments, _, _ = MODELS[name]
    with torch.device("meta"):
        encoder = create_encoder(name, num_classes=0, **arguments)
    assert count_gflops(encoder, size=arguments["img_size"]) > 0


@every_model
@pytest.mark.slow
def test_a_captioner_folder_keeps_it(name, tmp_path):
    arguments, side, prefix = MODELS[name]
    tokenizer = train_tokenizer(drawings.captions(60), vocab_size=60)
    encoder = Encoder.create(name, **arguments)
    size = encoder.pixels.size
    assert size == arguments["img_size"]
    model = build_model(encoder, vocab_size=len(tokenizer), width=32, layers=1, heads=2, max_length=12)
    captioner = Captioner.from_model(model, tokenizer)
    captioner.save_pretrained(tmp_path / "captioner")
    again = Captioner.from_pretrained(tmp_path / "captioner")
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    assert again.encode(pixels).shape == (2, side**2 + prefix, encoder.config.hidden_size)
    assert torch.equal(again.encode(pixels), captioner.encode(pixels))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "test_vit"])
def test_the_classifier_trains_it_twice(name, class_folder, tmp_path):
    """At another size, and again from its folder with its own classes."""
    settings = ["steps=1", "batch_size=4", "limit=8", "workers=0", "image_size=64"]
    for encoder, out in ((name, tmp_path / "first"), (str(tmp_path / "first" / "encoder"), tmp_path / "second")):
        recipe = ClassifierRecipe.load(None, [f"encoder={encoder}", *settings])
        figures = train_classifier(recipe, [str(class_folder)], out)
        trained = Encoder.load(out / "encoder")
        assert f"top1@{trained.budget}" in figures
        assert trained.config.architecture == name and trained.pixels.size == 64


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "swin_tiny_patch4_window7_224"])
def test_taken_to_another_size(name):
    arguments, side, _ = MODELS[name]
    encoder = create_encoder(name, **arguments).eval()
    size = arguments["img_size"]
    encoder.set_input_size(2 * size)
    assert encoder.budget == 2 * side == encoder.grid_side(2 * size)
    tokens = encoder.forward_tokens(torch.randn(1, 3, 2 * size, 2 * size))
    assert tokens.shape[1] == encoder.token_count(encoder.budget, 2 * size)


@pytest.mark.slow
def test_the_wrapper_and_its_model_are_one():
    """Copies, casts, new heads and modes reach both; compiling and exporting find the weights."""
    encoder = create_encoder("test_vit", img_size=64, num_classes=3)
    pixels = torch.randn(2, 3, 64, 64)
    expected = encoder.eval()(pixels)
    for copied in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(copied(pixels), expected)
        copied.reset_classifier(5)
        assert copied(pixels).shape == (2, 5) and copied.head is copied.wrapped.head
        assert copied.double()(pixels.double()).dtype == torch.float64
        assert copied.train().wrapped.training and not copied.eval().wrapped.training
    assert torch.equal(encoder(pixels), expected)
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    exported = torch.export.export(encoder, (pixels,)).module()
    for each in (compiled, exported):
        torch.testing.assert_close(each(pixels), expected)
