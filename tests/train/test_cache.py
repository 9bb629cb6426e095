"""The cache of tokens: what it holds, when it computes, what its key depends on."""

import shutil

import pytest
import torch

from train.cache import CacheError, TokenCache
from train.captioner import CaptionerRecipe, Captioning
from vlcap.data.captions import read_captions
from vlcap.model.encoder import Encoder


class Interruption(Exception):
    pass


@pytest.fixture
def cached(captioned_folder, tmp_path):
    torch.manual_seed(0)
    encoder = Encoder.create("lookupvit_test_patch8_48").set_budgets([2, 3]).freeze()
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
    """A further view is added to the existing ones, which are not computed again."""
    encoder, captions, root = cached
    two = TokenCache(root, encoder, captions, budgets=[2], views=2).fill()
    before = {path: path.stat().st_mtime_ns for path in two.folder.glob("*.npy")}
    three = TokenCache(root, encoder, captions, budgets=[2], views=3).fill()
    assert three.folder == two.folder
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not torch.equal(three.read("budget2", [0], view=2), three.read("budget2", [0], view=1))


@pytest.mark.slow
def test_the_loss_is_the_same_from_the_cache(cached, captioned_folder, tmp_path):
    cached[0].save_pretrained(tmp_path / "encoder")
    losses = []
    for views in (0, 1):
        recipe = CaptionerRecipe.load(
            None,
            [
                f"encoder={tmp_path / 'encoder'}",
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

    assert key(views=3) == key(views=2)  # views are added to the same folder
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
