"""Captioners on anyone's frozen encoder, the long way: trained, cached, compared, shown and exported."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch

from app.commands.train import _short
from app.demo.answers import Author
from tests.support import drawings, frozen_models
from tests.support.frozen_models import KINDS, VITS
from train.cache import TokenCache
from train.captioner import CaptionerRecipe, train_captioner
from train.classifier import ClassifierRecipe, train_classifier
from train.loop import TrainingError
from train.recipe import RecipeError
from train.smoke import smoke
from train.study import _new_encoder
from train.study_recipe import StudyRecipe, _shrink
from vlcap.captioner import Captioner, CaptionerError
from vlcap.data.captions import read_captions
from vlcap.evaluation.compare import compare, contender
from vlcap.export.graphs import EncoderGraph, write_graph
from vlcap.model.build import build_model
from vlcap.model.encoder import Encoder, digest_weights
from vlcap.model.timm_encoder import make_encoder
from vlcap.model.tokenizer import train_tokenizer

SETTINGS = ["steps=2", "batch_size=8", "limit=16", "workers=0", "cache_views=1", "evaluate_every=100"]
DECODER = ["width=32", "layers=1", "heads=2", "vocab_size=60", "max_length=12", "cider=false"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("timm")
    return {kind: frozen_models.write(frozen_models.make(kind), root / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def run(folders, captioned_folder, tmp_path_factory, quick_curves_in_module):
    """A captioner on a CLIP-like model whose tokens are merged to 4 or 9; its recipe and its run folder."""
    folder = shutil.copytree(folders["clip"], tmp_path_factory.mktemp("run") / "clip")
    out = folder.with_name("captioner")
    recipe = CaptionerRecipe.load(
        None, [*SETTINGS, *DECODER, f"encoder=timm:{folder}", "reduce=tome", "budgets=[2,3]", "steps=4"]
    )
    train_captioner(recipe, [str(captioned_folder)], out)
    return recipe, out, folder


@pytest.fixture(scope="module")
def captioner(run):
    return Captioner.from_pretrained(run[1] / "captioner")


def captioner_of(encoder):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(drawings.captions(60), vocab_size=60)
    model = build_model(encoder, vocab_size=len(tokenizer), width=32, layers=1, heads=2, max_length=12)
    return Captioner.from_model(model, tokenizer)


@pytest.mark.slow
def test_the_captioner_holds_the_frozen_encoder(run, captioner):
    recipe, out, _ = run
    encoder = captioner.model.encoder
    expected = make_encoder(recipe.encoder, "tome", [2, 3])
    assert digest_weights(encoder) == digest_weights(expected)
    assert captioner.budgets == [2, 3] and encoder.config.architecture == "timm_tome"
    pixels = captioner.preprocess([drawings.draw(1)])
    assert [captioner.encode(pixels, side).shape[1] for side in (2, 3)] == [4, 9]
    cached = {path.name.partition("-")[0] for path in (out.parent / "tokens").rglob("*.npy")}
    assert cached == {"budget2", "budget3"}
    assert all(isinstance(text, str) for text in captioner.caption([drawings.draw(2)], budget=2))


@pytest.mark.slow
def test_a_run_knows_its_encoders_weights(run, captioned_folder):
    """timm:FOLDER may be moved, and not replaced."""
    recipe, out, folder = run
    moved = folder.rename(folder.with_name("moved"))
    train_captioner(recipe.model_copy(update={"encoder": f"timm:{moved}"}), [str(captioned_folder)], out)  # finished
    moved.rename(folder)
    other = shutil.copytree(folder, folder.with_name("other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"description": "another"}))
    with pytest.raises(TrainingError, match="was begun with another encoder"):
        train_captioner(recipe.model_copy(update={"encoder": f"timm:{other}"}), [str(captioned_folder)], out)


@pytest.mark.slow
def test_it_compares(captioner, captioned_folder, tmp_path):
    captions = read_captions(captioned_folder, "val", limit=8)
    found = compare([contender("clip", captioner)], captions, tmp_path, rounds=1, draws=20, num_beams=1)
    assert [(row.tokens, row.trained_for) for row in found.rows] == [(4, True), (9, True)]
    assert found.rows[0].encoder_gflops < found.rows[1].encoder_gflops


def test_the_page_says_that_there_are_no_maps(captioner):
    assert not captioner.facts.gathers
    assert "no maps of what it looked at" in Author(captioner).description
    with pytest.raises(CaptionerError, match="timm_tome, does not gather: it has no maps to show"):
        captioner.engine.attention(captioner.preprocess([drawings.draw(1)]), 2, [])


@pytest.mark.slow
def test_other_arguments_have_a_cache_of_their_own(folders, captioned_folder, tmp_path):
    """The weights are the same, and the tokens are not."""
    captions = read_captions(captioned_folder, "val", limit=2)
    plain = make_encoder(f"timm:{folders['clip']}", "evit", [2])
    other = plain.with_arguments({"act_layer": "relu"})
    assert digest_weights(plain) == digest_weights(other)
    files = [TokenCache(tmp_path, each, captions, budgets=[2]).files for each in (plain, other)]
    assert files[0] != files[1]
    again = plain.set_budgets([2, 3])
    assert TokenCache(tmp_path, again, captions, budgets=[2]).files == files[0]


@pytest.mark.slow
def test_blocks_are_trained_first(folders, class_folder, captioned_folder, tmp_path, quick_curves):
    """The trunk stays as it is and is cached; the captioner then takes the encoder's folder, and has maps."""
    name = f"timm:{folders['dinov2']}"
    recipe = CaptionerRecipe.load(None, [*SETTINGS, *DECODER, f"encoder={name}", "reduce=lookup"])
    with pytest.raises(TrainingError, match="have to be trained first: vlcap train classifier --encoder timm:"):
        train_captioner(recipe, [str(captioned_folder)], tmp_path / "early")
    stage = ClassifierRecipe.load(
        None, [*SETTINGS, f"encoder={name}", "reduce=lookup", "budgets=[2,3]", "model_args={depth: 1, embed_dim: 64}"]
    )
    figures = train_classifier(stage, [str(class_folder)], tmp_path / "blocks")
    assert {"top1@2", "top1@3"} <= figures.keys()
    trained = Encoder.load(tmp_path / "blocks" / "encoder")
    start = make_encoder(name, "lookup", [2, 3], depth=1, embed_dim=64)
    assert digest_weights(trained.trunk) == digest_weights(start.trunk)
    assert not torch.equal(trained.model.blocks[0].gather.q.weight, start.model.blocks[0].gather.q.weight)
    folder = tmp_path / "blocks" / "encoder"
    recipe = recipe.model_copy(update={"encoder": str(folder), "budgets": [2, 3]})
    train_captioner(recipe, [str(captioned_folder)], tmp_path / "captioner")
    captioner = Captioner.from_pretrained(tmp_path / "captioner" / "captioner")
    assert captioner.facts.gathers and captioner.budgets == [2, 3]
    attention = captioner.engine.attention(captioner.preprocess([drawings.draw(1)]), 2, [])
    assert attention.gathered.shape == (1, 4, 16) and attention.grid == (4, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "reduce"), [("efficientnet", "pool"), ("clip", "tome"), ("dinov2", "evit"), ("siglip", "lookup")]
)
def test_graphs_give_the_same_tokens(kind, reduce, tmp_path):
    """ONNX Runtime reads several photos with a graph that was made with two. One block is enough, and quicker."""
    model = frozen_models.make(kind, **({"depth": 1} if kind in VITS else {}))
    own = {"depth": 1, "embed_dim": 64} if reduce == "lookup" else {}
    encoder = make_encoder(f"timm:{frozen_models.write(model, tmp_path / kind)}", reduce, [3], **own)
    captioner = captioner_of(encoder)
    graph = EncoderGraph(captioner.engine, 3).eval()
    size = captioner.pixels.size
    outputs = ["photo", "gathered"] if captioner.facts.gathers else ["photo"]
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    path = tmp_path / "encoder.onnx"
    write_graph(graph, (example,), path, ["pixels"], outputs, {"pixels": {0: torch.export.Dim("photos")}})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = captioner.preprocess([drawings.draw(number) for number in range(3)])
    with torch.no_grad():
        expected = graph(torch.as_tensor(pixels))[0]
    found = session.run(None, {"pixels": np.asarray(pixels)})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-3)


def test_options_are_settings():
    settings = _short(budgets="2,3", encoder="timm:a: b", reduce="pool")
    recipe = CaptionerRecipe.load(None, settings)
    assert (recipe.budgets, recipe.encoder, recipe.reduce) == ([2, 3], "timm:a: b", "pool")
    assert _short(budgets=None, encoder=None) == []
    with pytest.raises(RecipeError, match=r"reduce: .*'pool', 'tome', 'evit' or 'lookup'"):
        CaptionerRecipe.load(None, ["encoder=timm:test_vit", "reduce=shrink"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "no encoder given: .*timm:NAME"),
        (["encoder=timm:test_vit", "reduce=lookup"], "--encoder timm:test_vit --reduce lookup .*RUN/encoder"),
        (["start_from=somewhere", "reduce=pool"], "start_from keeps its captioner's encoder"),
        (["start_from=somewhere"], "start_from keeps its captioner's decoder as it is: leave out .*width"),
    ],
)
def test_what_is_refused_before_photos_are_read(settings, said, tmp_path):
    recipe = CaptionerRecipe.load(None, [*DECODER, *settings])
    with pytest.raises(TrainingError, match=said):
        train_captioner(recipe, ["nowhere"], tmp_path / "run")


def test_a_trained_encoders_tokens_are_what_they_are(captioned_folder, tmp_path):
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(tmp_path / "encoder")
    recipe = CaptionerRecipe.load(None, [*SETTINGS, *DECODER, f"encoder={tmp_path / 'encoder'}", "reduce=pool"])
    with pytest.raises(TrainingError, match=r"those of its training .lookupvit_test_patch8_48.: leave reduce out"):
        train_captioner(recipe, [str(captioned_folder)], tmp_path / "run")


@pytest.mark.slow
def test_rows_of_a_study(folders):
    """A row's stages put blocks over its encoder; a smoke run does without its weights."""
    name = f"timm:{folders['siglip']}"
    rows = [{"name": "blocks", "encoder": name, "reduce": "lookup"}, {"name": "means", "encoder": name}]
    rows[1] |= {"reduce": "pool", "train": False, "budgets": [2, 3]}
    recipe = StudyRecipe(rows=rows)
    recipe._check_settings()
    first = recipe.classifier_recipe(recipe.rows[0])
    assert (first.encoder, first.reduce) == (name, "lookup")
    assert recipe.classifier_recipe(recipe.rows[0], after=folders["clip"]).reduce is None
    made = _new_encoder(recipe, recipe.rows[1], name)
    assert made.config.architecture == "timm_pool" and made.config.budgets == [2, 3]
    shrunk = StudyRecipe(**_shrink(recipe.model_dump()))
    assert not any(row.reduce or row.encoder == name for row in shrunk.rows)
    for row, said in (
        ({"encoder": "vit_mini_patch8_96", "reduce": "pool"}, "reduce is for an encoder timm:NAME, not for vit_mini"),
        ({"encoder": name, "reduce": "lookup", "train": False}, "reduce=lookup need a stage of classification"),
    ):
        with pytest.raises(RecipeError, match=said):
            StudyRecipe(rows=[{"name": "row", **row}])._check_settings()


def test_a_smoke_run_fetches_nothing(tmp_path):
    recipe = CaptionerRecipe.load(None, ["encoder=timm:test_vit", "reduce=pool", "budgets=[3]", "image_size=224"])
    small, folder = smoke(recipe, tmp_path / "captioner")
    assert (small.reduce, small.image_size, small.budgets) == (None, None, [2, 3])
    assert Encoder.load(small.encoder).config.budgets == [2, 3] and folder.is_relative_to(tmp_path)
    stage, _ = smoke(ClassifierRecipe.load(None, ["encoder=timm:test_vit", "reduce=lookup"]), tmp_path / "blocks")
    assert (stage.encoder, stage.reduce, stage.image_size) == ("lookupvit_hybrid_test_64", None, 64)
