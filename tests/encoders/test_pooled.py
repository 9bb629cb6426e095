"""A trunk's own features, pooled to the budget: against a plain average, and as an encoder of a captioner."""

import pytest
import timm
import torch
import torch.nn.functional as F

import encoders  # noqa: F401 - registers them
from vlcap.model.encoder import Encoder


@pytest.fixture
def model():
    torch.manual_seed(0)
    return timm.create_model("pooled_test_64", num_classes=3).eval()


def test_tokens_are_averages_of_the_maps(model):
    """Budget 2 of maps of 4 x 4 and 2 x 2: means of 2 x 2 cells, and the cells themselves."""
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        fine, coarse = model.trunk_features(pixels)
        tokens = model.forward_tokens(pixels, 2)
    fine, coarse = (F.layer_norm(each.permute(0, 2, 3, 1), each.shape[1:2]) for each in (fine, coarse))
    for i, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        cell = fine[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean(dim=(1, 2))
        torch.testing.assert_close(tokens[:, i], torch.cat([cell, coarse[:, row, column]], dim=1))


def test_all_of_the_trunk_at_the_largest_budget(model):
    with torch.no_grad():
        tokens = model.forward_tokens(torch.randn(1, 3, 64, 64), 4)
        assert tokens.shape == (1, 16, model.num_features)
        kept = model.trunk_features(torch.randn(1, 3, 64, 64))
        fine = F.layer_norm(kept[0].permute(0, 2, 3, 1), kept[0].shape[1:2]).flatten(1, 2)
        torch.testing.assert_close(model.forward_tokens(kept, 4)[..., : fine.shape[-1]], fine)
    with pytest.raises(ValueError, match="whole number from 1 to 4"):
        model.forward_tokens(torch.randn(1, 3, 64, 64), 5)


def test_a_folder_keeps_it(tmp_path):
    encoder = Encoder.create("pooled_test_64", classes=["a", "b"])
    encoder.save_pretrained(tmp_path / "encoder")
    loaded = Encoder.load(tmp_path / "encoder")
    assert loaded.has_choice and loaded.token_count(3) == 9
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for encode in (lambda each: each(pixels, budget=3).last_hidden_state, lambda each: each.model(pixels)):
            torch.testing.assert_close(encode(loaded.eval()), encode(encoder.eval()))
    assert loaded.set_budgets([2, 4]).config.budgets == [2, 4]
