"""Rows from elsewhere in `vlcap compare`: captioners of others, and captions that another program has written."""

import json
import pickle
from pathlib import Path

import pytest
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from app.loading import load_named
from app.parsing import parse_predictions
from tests.support import drawings, foreign
from vlcap.captioner import CaptionerError
from vlcap.data.captions import CaptionDataError, read_captions, write_coco_results
from vlcap.evaluation.compare import Comparison, Predictions, compare, contender
from vlcap.evaluation.evaluate import evaluate
from vlcap.evaluation.hugging_face import load_hugging_face, short_name
from vlcap.evaluation.metrics import MetricsError, score
from vlcap.evaluation.page import examples, table, write_all, write_page

SIX = dict.fromkeys(range(240, 246), "a red circle")  # ids of the first photos of the val split


@pytest.fixture(scope="module")
def captions(captioned_folder):
    return read_captions(captioned_folder, "val")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("foreign")
    return {kind: foreign.write(kind, place / kind) for kind in foreign.KINDS}


@pytest.fixture(scope="module")
def loaded(folders):
    return {kind: load_hugging_face(f"hf:{folder}") for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def written(captions, tmp_path_factory):
    """A result file as another program writes it: strings of digits for ids, in another order."""
    path = tmp_path_factory.mktemp("written") / "theirs.json"
    texts = {image_id: drawings.describe(image_id)[1] for image_id in captions.image_ids[::-1]}
    path.write_text(json.dumps([{"image_id": str(key), "caption": text} for key, text in texts.items()]))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", foreign.KINDS)
def test_captions_are_those_of_hugging_faces_own_steps(loaded, folders, kind):
    photos = [drawings.draw(number) for number in range(4)]
    folder = folders[kind]
    processor, tokenizer = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    for beams in (1, 3):
        ids = model.generate(pixel_values=processor(photos, return_tensors="pt")["pixel_values"], num_beams=beams)
        expected = [" ".join(text.split()) for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        found = loaded[kind].caption_pixels(loaded[kind].preprocess(photos), num_beams=beams)
        assert [each.text for each in found] == expected and any(expected)
        assert {each.budget for each in found} == {17}  # 4 x 4 patches and a class token
    assert (loaded[kind].budgets, loaded[kind].image_size) == ([17], 32)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "beams"), [("vit-gpt2", 3), ("blip", 1), ("git", 1), ("git", 3)])
def test_decoding_from_tokens_is_the_whole_less_the_encoder(loaded, kind, beams):
    """In pieces, and in FLOPs but for GIT's beams: its own code would encode the photo once for each of them."""
    captioner = loaded[kind]
    pixels = captioner.preprocess([drawings.draw(5)])
    settings = {"num_beams": beams, "min_new_tokens": 6, "max_new_tokens": 6}
    found = captioner.decode_ids(captioner.encode(pixels), **settings)
    assert torch.equal(found, captioner.decode_ids(captioner.encode(pixels), **settings))
    captioner.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        whole = captioner.model.generate(pixel_values=pixels, **settings)
    assert torch.equal(found, whole)
    encoder = captioner.encoder_gflops()
    decoder = captioner.decoder_gflops(17, 6, num_beams=beams)
    projection = 2e-9 * 17 * foreign.WIDTH**2  # from the encoder's width to the decoder's
    again = (beams - 1) * (encoder + projection) if kind == "git" else 0
    assert encoder + decoder + again == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-6)


def test_the_cost_of_an_encoder_by_hand(loaded):
    """ViT: the projection of the patches, and in each block 4 w^2 + 2 n w + 2 w m products for each token."""
    tokens, patches, width = 17, 16, foreign.WIDTH
    macs = patches * 3 * foreign.PATCH**2 * width
    macs += 2 * tokens * (4 * width**2 + 2 * tokens * width + 2 * width * 2 * width)
    pooler = width**2  # transformers' ViT has one, and runs it
    assert loaded["vit-gpt2"].encoder_gflops() == pytest.approx(2e-9 * (macs + pooler), rel=1e-6)
    for kind in ("blip", "git"):
        assert loaded[kind].encoder_gflops() == pytest.approx(2e-9 * macs, rel=1e-6)


@pytest.mark.slow
def test_a_comparison_with_rows_from_elsewhere(captioner, captions, loaded, written, tmp_path, monkeypatch):
    ours = contender("ours", captioner, [2])
    theirs = [contender(kind, each) for kind, each in loaded.items()]
    files = [Predictions("free", written), Predictions("stated", written, 12.5)]
    found = compare([files[0], ours, *theirs, files[1]], captions, tmp_path, rounds=1, num_beams=1)
    assert [row.model for row in found.rows] == ["free", "ours", *foreign.KINDS, "stated"]
    expected = score({i: drawings.describe(i)[1] for i in captions.image_ids}, captions.references())
    free, _, vit_gpt2, _, _, stated = found.rows
    for row in (free, stated):
        assert (row.CIDEr, row.Bleu_4) == (expected.values["CIDEr"], expected.values["Bleu_4"])
        assert row.cider_low - 1e-9 <= row.CIDEr <= row.cider_high + 1e-9
        unknown = (row.encoder, row.budget, row.tokens, row.encoder_gflops, row.ms, row.encoder_params)
        assert unknown == (None,) * 6
    assert (free.gflops, stated.gflops) == (None, 12.5)
    assert (vit_gpt2.encoder, vit_gpt2.budget, vit_gpt2.tokens, vit_gpt2.image_size) == ("vit", 17, 17, 32)
    for row in found.rows[1:5]:
        assert row.encoder_gflops > 0 and row.decoder_gflops > 0 and row.encoder_ms > 0 and row.decoder_ms > 0
    assert len(found.differences) == 6 * 5
    assert found.differences[0].than == 1 and found.differences[0].low > 0

    write_all(found, captions, tmp_path, photos=1)
    assert Comparison.from_dict(json.loads((tmp_path / "comparison.json").read_text())) == found
    page = (tmp_path / "comparison.html").read_text()
    assert "12.5 as stated" in page and "free (cost not known)" in (tmp_path / "comparison.svg").read_text()
    assert "Captions that another program has written" in page and "there is a red circle" in page
    cells = [[*column.cells] for column in table(found).columns]
    assert [column[0] for column in cells][1::5] == ["-", "-"] and [column[5] for column in cells][6:] == ["12.5", "-"]

    monkeypatch.setattr(type(theirs[0].captioner), "caption_pixels", None)  # kept captions are used again
    again = compare([theirs[0]], captions, tmp_path, rounds=1, num_beams=1)
    assert again.rows[0].CIDEr == vit_gpt2.CIDEr


@pytest.mark.slow
def test_files_alone_can_be_compared(captions, written, tmp_path):
    found = compare([Predictions("one", written), Predictions("two", written, 3.0)], captions, tmp_path)
    assert found.differences[0].CIDEr == 0 and found.setting["caption_length"] is None
    write_page(found, tmp_path / "page.html", examples(found, captions, tmp_path, 1))
    assert "Milliseconds: one photo" not in (tmp_path / "page.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (SIX, r"18 of 24 images have no prediction \(first: 246, 247, 248\)"),
        (SIX | {7: "a dog"}, r"1 of 7 predictions have no references \(first: 7\)"),
    ],
)
def test_captions_of_other_photos_are_refused(captioner, captions, tmp_path, texts, problem, monkeypatch):
    monkeypatch.setattr(captioner, "caption_pixels", None)  # before any photo is captioned
    write_coco_results(tmp_path / "theirs.json", texts)
    rows = [contender("ours", captioner, [2]), Predictions("theirs", tmp_path / "theirs.json")]
    with pytest.raises(MetricsError, match=rf"theirs\.json: .*{problem}") as caught:
        compare(rows, captions, tmp_path / "out")
    assert "\n" not in str(caught.value)
    (tmp_path / "theirs.json").write_text("{}")
    with pytest.raises(CaptionDataError, match=r"theirs\.json: a result file is a list"):
        compare(rows, captions, tmp_path / "out")


def test_a_name_a_file_and_a_cost(tmp_path):
    (tmp_path / "odd:12").write_text("[]")
    assert parse_predictions("blip=a.json") == ("blip", Path("a.json"), None)
    assert parse_predictions("blip=a.json:85.5") == ("blip", Path("a.json"), 85.5)
    assert parse_predictions(f"blip={tmp_path}/odd:12") == ("blip", tmp_path / "odd:12", None)
    assert parse_predictions(f"blip={tmp_path}/odd:12:3") == ("blip", tmp_path / "odd:12", 3.0)
    for wrong in ("a.json", "=a.json", "blip=", "results/a.json", "blip=a.json:0", "blip=a.json:nan", "blip=a.json:-1"):
        with pytest.raises(typer.BadParameter, match="--predictions"):
            parse_predictions(wrong)


@pytest.mark.slow
def test_evaluate_takes_one_too(loaded, captions):
    report = evaluate(loaded["vit-gpt2"], captions, num_beams=1)
    assert (report["model"], report["budget"], report["N"]) == ("vit-gpt2", 17, 24)
    assert report["generation"] == {"max_new_tokens": 8, "num_beams": 1}
    with pytest.raises(CaptionerError, match="vit-gpt2: vit has no choice of budget: it gives 17 tokens"):
        evaluate(loaded["vit-gpt2"], captions, budget=3)


def test_no_choice_of_budget_or_size(loaded):
    for asked in ({"budgets": [3]}, {"image_size": 64}):
        with pytest.raises(CaptionerError, match="git: a third-party captioner has its own"):
            contender("git", loaded["git"], **asked)


def test_names(folders):
    assert short_name("hf:nlpconnect/vit-gpt2-image-captioning") == "vit-gpt2-image-captioning"
    assert short_name("hf:someone/blip@refs/pr/1") == "blip@refs/pr/1"
    assert load_named(f"hf:{folders['blip']}")[0] == "blip"
    assert load_named(f"mine=hf:{folders['blip']}")[0] == "mine"


class Harm:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_what_is_refused(folders, captioner_folder, tmp_path):
    def refused(problem, **changes):
        folder = tmp_path / f"strange-{len([*tmp_path.iterdir()])}"
        folder.mkdir()
        for path in folders["vit-gpt2"].iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        for name, content in changes.pop("files", {}).items():
            if content is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(content)
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(CaptionerError, match=rf"^hf:.*strange-\d: {problem}") as caught:
            load_hugging_face(f"hf:{folder}")
        assert "\n" not in str(caught.value)

    harm = pickle.dumps(Harm(tmp_path / "harm"))
    pickled = {"model.safetensors": None, "pytorch_model.bin": harm}
    refused("no model.safetensors in it, only pytorch_model.bin, a pickle, which could run code", files=pickled)
    refused("a model of the kind 'llava': there are vision-encoder-decoder, blip, git", model_type="llava")
    refused("config.json names code that is not run: auto_map", auto_map={"AutoModel": "code.Model"})
    kernel = {"_attn_implementation": "some/kernel"}
    refused("config.json names code that is not run: _attn_implementation some/kernel", **kernel)
    refused("an adapter", files={"adapter_config.json": b"{}"})
    refused("no captioner can be loaded: ", files={"model.safetensors": b"\xff" * 100})
    refused("no captioner can be loaded: ", files={"preprocessor_config.json": b"[1"})
    with pytest.raises(CaptionerError, match="a captioner of vlcap: name it without hf:"):
        load_hugging_face(f"hf:{captioner_folder}")
    with pytest.raises(CaptionerError, match=r"^hf:no/such: no captioner can be loaded: "):
        load_hugging_face("hf:no/such")
    assert not list(tmp_path.glob("harm"))


def test_missing_weights_are_not_made_up(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    for path in folders["vit-gpt2"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("decoder.transformer.h.0.mlp.c_fc.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CaptionerError, match=r"its weights lack 1 tensors, the first is decoder\..*c_fc\.weight"):
        load_hugging_face(tmp_path.as_posix())
