"""Captioner folders for others: model cards, Hugging Face's Auto classes, image processors, uploads to the hub."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoTokenizer

import app.cli
from tests.support import drawings
from tests.support.hub import Hub
from vlcap import registration
from vlcap.auto_budget import FILE, AutoBudget, read_rule
from vlcap.captioner import BUNDLED, Captioner, CaptionerError
from vlcap.data.images import PixelConfig
from vlcap.files.writing import MARKER, NotOursError, digest_file
from vlcap.model.encoder import Encoder
from vlcap.model.processor import image_processor

HALF = {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.6, 0.7)}
REPORT = {"CIDEr": 0.5129, "Bleu_4": 0.21, "N": 1000, "data": "flickr8k-144", "split": "test", "budget": 5}


@pytest.fixture
def run(captioner_folder, tmp_path) -> Path:
    """The folder of a captioning run, as far as a card is made from it."""
    shutil.copytree(captioner_folder, tmp_path / "run" / "captioner")
    (tmp_path / "run" / "captioner" / "README.md").unlink()
    data = [{"split": split, "name": "/home/me/coco-6k-144", "photos": 9, "sha256": ""} for split in ("train", "val")]
    (tmp_path / "run" / "run.json").write_text(json.dumps({"kind": "captioner", "data": data}))
    recipe = {"encoder": "/home/me/runs/words/encoder", "lr": 0.001, "decoder": None, "budgets": [2, 3]}
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "run" / "captioner"


@pytest.fixture
def report(tmp_path) -> Path:
    (tmp_path / "metrics.json").write_text(json.dumps(REPORT | {"generation": {"num_beams": 4}}))
    return tmp_path / "metrics.json"


@pytest.mark.slow
def test_the_card_is_made_from_the_run_and_its_scores(run, report, tmp_path):
    Captioner.from_pretrained(run).save_pretrained(tmp_path / "copy", license="cc-by-4.0", metrics=[report])
    card = ModelCard.load(tmp_path / "copy" / "README.md")
    known = card.data.to_dict()
    assert (known["license"], known["library_name"], known["pipeline_tag"]) == ("cc-by-4.0", "vlcap", "image-to-text")
    assert (known["datasets"], known["metrics"]) == (["coco-6k-144"], ["cider", "bleu"])
    [index] = known["model-index"]
    [result] = index["results"]
    assert index["name"] == "copy" and result["task"]["type"] == "image-to-text"
    assert result["dataset"] == {"name": "flickr8k-144", "type": "flickr8k-144", "split": "test"}
    assert result["metrics"][0]["type"] == "cider" and result["metrics"][0]["value"] == 51.29
    assert result["metrics"][0]["args"] == {"N": 1000, "budget": 5, "num_beams": 4}
    assert known["vlcap"]["recipe"] == {"budgets": [2, 3], "encoder": "words/encoder", "lr": 0.001}
    assert "| flickr8k-144 | test | 1000 | 5 | CIDEr x 100 | 51.29 |" in card.text
    assert "/home/me" not in str(card) and "`lookupvit_test_patch8_48`" in card.text
    again = Captioner.from_pretrained(tmp_path / "copy")
    assert again.trained_on == "coco-6k-144"

    report.write_text(json.dumps(REPORT | {"CIDEr": 0.6, "generation": {"num_beams": 4}}))
    again.save_pretrained(tmp_path / "second", metrics=[report])  # the score on the same data is replaced
    second = ModelCard.load(tmp_path / "second" / "README.md")
    assert [each.metric_value for each in second.data.eval_results if each.metric_type == "cider"] == [60.0]
    assert second.data.license == "cc-by-4.0" and second.data.to_dict()["vlcap"] == known["vlcap"]


def test_a_card_of_which_nothing_is_known(captioner, tmp_path):
    Captioner.from_model(captioner.model, captioner.tokenizer).save_pretrained(tmp_path / "new")
    card = ModelCard.load(tmp_path / "new" / "README.md")
    assert card.data.license == "unknown" and "datasets" not in card.data.to_dict()
    for text in ("Not recorded.", "Not evaluated.", "Nobody has named a license"):
        assert text in card.text


def test_a_persons_card_stays_as_it_is(captioner_folder, report, tmp_path):
    folder = shutil.copytree(captioner_folder, tmp_path / "theirs")
    text = "---\nlicense: mit\njudged: {right: 3}\n---\n\n# Mine\n\nBy hand.\n"
    (folder / "README.md").write_text(text)
    mine = Captioner.from_pretrained(folder)
    mine.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == text
    mine.save_pretrained(tmp_path / "scored", metrics=[report])
    scored = ModelCard.load(tmp_path / "scored" / "README.md")
    assert scored.text.endswith("# Mine\n\nBy hand.\n") and scored.data.get("judged") == {"right": 3}
    assert scored.data.eval_results[0].metric_value == 51.29 and scored.data.license == "mit"
    (folder / "README.md").write_text("---\n[\n---\n# Damaged\n")
    mine.save_pretrained(tmp_path / "damaged")
    assert "# Damaged" in (tmp_path / "damaged" / "README.md").read_text()
    with pytest.raises(CaptionerError, match="its metadata cannot be read"):
        mine.save_pretrained(tmp_path / "refused", metrics=[report])
    assert not (tmp_path / "refused").exists()


def test_another_license_takes_the_name_of_the_first_along(captioner_folder, tmp_path):
    folder = shutil.copytree(captioner_folder, tmp_path / "theirs")
    named = "license: other\nlicense_name: research-only\nlicense_link: LICENSE"
    (folder / "README.md").write_text(f"---\n{named}\n---\n\n# Mine\n")
    for license, names in (("mit", (None, None)), ("other", ("research-only", "LICENSE"))):
        Captioner.from_pretrained(folder).save_pretrained(tmp_path / license, license=license)
        data = ModelCard.load(tmp_path / license / "README.md").data
        assert (data.license, data.license_name, data.license_link) == (license, *names)


def test_the_rule_of_budgets_goes_along(captioner_folder, hub, tmp_path):
    folder = shutil.copytree(captioner_folder, tmp_path / "run")
    rule = AutoBudget((2, 3), -1.5, {"data": "drawn"})
    (folder / FILE).write_text(json.dumps(rule.to_dict()))
    loaded = Captioner.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "copy")
    loaded.push_to_hub("me/small", token="hf_secret")
    assert read_rule(tmp_path / "copy") == rule and hub.of("me/small")[FILE] == (folder / FILE).read_bytes()


def test_scores_of_another_captioner_are_refused(captioner_folder, report, tmp_path):
    loaded = Captioner.from_pretrained(captioner_folder)
    report.write_text(json.dumps(REPORT | {"weights_sha256": digest_file(captioner_folder / "model.safetensors")}))
    loaded.save_pretrained(tmp_path / "copy", metrics=[report])
    report.write_text(json.dumps(REPORT | {"weights_sha256": "0" * 64}))
    with pytest.raises(CaptionerError, match=r"metrics\.json: has the scores of a captioner with other weights"):
        loaded.save_pretrained(tmp_path / "refused", metrics=[report])
    assert not (tmp_path / "refused").exists()


def test_what_is_no_metrics_file(captioner, tmp_path):
    for text, problem in (("[]", "is no metrics.json"), ('{"N": 1}', "is no metrics.json"), ("{", "not valid JSON")):
        (tmp_path / "metrics.json").write_text(text)
        with pytest.raises(CaptionerError, match=rf"metrics\.json.*{problem}"):
            captioner.save_pretrained(tmp_path / "copy", metrics=[tmp_path / "metrics.json"])
    with pytest.raises(CaptionerError, match=r"nowhere\.json: cannot be read"):
        captioner.save_pretrained(tmp_path / "copy", metrics=[tmp_path / "nowhere.json"])


def test_a_run_with_damaged_files_has_a_card_that_says_so(run, tmp_path):
    (run.parent / "run.json").write_text("[")
    with pytest.warns(UserWarning, match="the card says nothing of the training"):
        Captioner.from_pretrained(run).save_pretrained(tmp_path / "copy")
    assert "Not recorded." in (tmp_path / "copy" / "README.md").read_text()


def test_a_folder_with_somebodys_files_is_refused(captioner, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text("mine")
    with pytest.raises(NotOursError, match="was not written by vlcap as its captioner folder"):
        captioner.save_pretrained(tmp_path / "theirs")
    assert (tmp_path / "theirs" / "config.json").read_text() == "mine"
    for _ in range(2):  # what vlcap wrote is replaced
        captioner.save_pretrained(tmp_path / "ours")
    (tmp_path / "ours" / "notes.txt").write_text("mine")
    captioner.save_pretrained(tmp_path / "ours")
    assert (tmp_path / "ours" / "notes.txt").read_text() == "mine"
    (tmp_path / "ours" / "README.md").write_text("edited")
    with pytest.raises(NotOursError, match=r"README\.md was changed after vlcap wrote it"):
        captioner.save_pretrained(tmp_path / "ours")


def test_auto_classes_load_what_we_save(captioner, captioner_folder, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(captioner_folder).eval()
    pixels = captioner.engine.normalize(captioner.preprocess([drawings.draw(number) for number in range(3)]))
    ids = [each.generate(pixel_values=pixels, num_beams=2) for each in (model, captioner.model)]
    assert torch.equal(*ids)
    tokenizer = AutoTokenizer.from_pretrained(captioner_folder)
    texts = [text.strip() for text in tokenizer.batch_decode(ids[0], skip_special_tokens=True)]
    assert texts == captioner.caption([drawings.draw(number) for number in range(3)], num_beams=2)
    encoder = Encoder.create("lookupvit_test_patch8_48").eval()
    encoder.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert type(loaded) is Encoder
    assert torch.equal(loaded(pixels).last_hidden_state, encoder(pixels).last_hidden_state)


PROGRAM = """
import importlib.util, sys
import vlcap
assert importlib.util.find_spec("transformers")  # as other libraries look for it
assert not {"torch", "transformers", "timm"} & set(sys.modules)
from transformers import GPT2Config  # Auto classes are imported in the middle of this
from transformers import AutoModel, AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
print(type(model.encoder).__name__, type(AutoModel.from_pretrained(sys.argv[2])).__name__)
"""


@pytest.mark.slow
def test_import_vlcap_is_enough(captioner_folder, tmp_path):
    Encoder.create("lookupvit_test_patch8_48").save_pretrained(tmp_path)
    program = [sys.executable, "-c", PROGRAM, captioner_folder, tmp_path]
    done = subprocess.run(program, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == ["Encoder", "Encoder"], done.stderr


def test_transformers_that_is_there_already(monkeypatch):
    done = []
    monkeypatch.setattr(registration, "register", lambda: done.append("registered"))
    registration.register_with_transformers()
    assert done == ["registered"] and not any(type(each).__name__ == "_Hook" for each in sys.meta_path)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.9])
def test_hugging_faces_processor_gives_the_same_pixels(interpolation, crop_pct, tmp_path):
    pixels = PixelConfig(36, **HALF, interpolation=interpolation, crop_pct=crop_pct, crop_mode="squash")
    image_processor(pixels).save_pretrained(tmp_path)
    for size in ((64, 48), (31, 90), (36, 36), (300, 200)):
        photo = drawings.draw(3, size)
        expected = pixels.cut(photo).astype(float) / 255
        for backend in ("torchvision", "pil"):
            processor = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
            found = np.asarray(processor(photo, return_tensors="np")["pixel_values"][0])
            mean, std = (np.array(each)[:, None, None] for each in (pixels.mean, pixels.std))
            assert np.abs(found * std + mean - expected).max() <= 1.001 / 255, (size, backend)


def test_processors_are_saved_where_hugging_face_has_the_preprocessing(captioner, captioner_folder, tmp_path):
    own = image_processor(captioner.pixels)
    assert (captioner_folder / "preprocessor_config.json").is_file() == (own is not None)
    plain = {"size": 36, **HALF, "crop_mode": "squash"}
    assert image_processor(PixelConfig(**plain)) is not None
    for odd in ({"crop_mode": "center"}, {"crop_mode": "border"}, {"interpolation": "lanczos"}, {"crop_pct": 36 / 39}):
        assert image_processor(PixelConfig(**plain | odd)) is None, odd
    Encoder.create("lookupvit_test_patch8_48", pixels=PixelConfig(**plain | {"size": 48})).save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).size["height"] == 48


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with Hub() as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield server


def test_pushed_is_what_is_saved(captioner, report, hub, tmp_path):
    address = captioner.push_to_hub("me/small", private=True, token="hf_secret", metrics=[report])
    assert address == f"{hub.url}/me/small/commit/{'1' * 40}"
    assert hub.created[0]["name"] == "small" and hub.created[0].get("visibility") == "private"
    assert hub.tokens == {"Bearer hf_secret"} and hub.messages == ["Upload captioner"]
    captioner.save_pretrained(tmp_path / "saved", metrics=[report])
    files = hub.of("me/small")
    assert {*files} == {path.name for path in (tmp_path / "saved").iterdir()} - {MARKER}
    assert files["model.safetensors"] == (tmp_path / "saved" / "model.safetensors").read_bytes()
    assert b'from_pretrained("me/small")' in files["README.md"] and b"value: 51.29" in files["README.md"]


def test_a_persons_card_on_the_hub_stays(captioner, hub):
    for card, stays in ((b"# By hand\n", True), (b"---\nvlcap: {recipe: {}}\n---\n# Ours\n", False)):
        hub.files["me/small", "README.md"] = card
        captioner.push_to_hub("me/small", token="hf_secret", commit_message="Again")
        assert (hub.of("me/small")["README.md"] == card) is stays
    assert hub.messages == ["Again", "Again"]


def test_the_hub_refuses_or_is_not_there(captioner, hub, monkeypatch):
    hub.refuses = 403
    with pytest.raises(CaptionerError, match=r"^me/small: not uploaded: .*403") as caught:
        captioner.push_to_hub("me/small", token="hf_secret")
    assert "\n" not in str(caught.value) and "hf_secret" not in str(caught.value)
    with pytest.raises(CaptionerError, match=r"^me/a/b: not uploaded"):
        captioner.push_to_hub("me/a/b", token="hf_secret")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CaptionerError, match="not uploaded: Cannot reach"):
        captioner.push_to_hub("me/small", token="hf_secret")


def test_the_command(captioner_folder, hub, monkeypatch, capsys):
    arguments = ["push", "me/small", "--model", captioner_folder, "--private", "--license", "mit"]
    monkeypatch.setattr(sys, "argv", ["vlcap", *map(str, arguments)])
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    with pytest.raises(SystemExit) as ended:
        app.cli.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{hub.url}/me/small/commit/{'1' * 40}\n"
    assert b"license: mit" in hub.of("me/small")["README.md"]
    assert hub.tokens == {"Bearer hf_of_the_environment"}


def test_the_bundled_folder():
    assert "vlcap" not in ModelCard.load(BUNDLED / "README.md").data.to_dict()
    values = json.loads((BUNDLED / "config.json").read_text())["encoder"]["pixels"]
    expected = image_processor(PixelConfig.from_dict(values)).to_dict()
    assert AutoImageProcessor.from_pretrained(BUNDLED).to_dict() == expected
