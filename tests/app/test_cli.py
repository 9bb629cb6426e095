"""The `vlcap` command as people run it: real processes, real files, exit status."""

import io
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter

import pytest
from PIL import Image, ImageOps

from tests.support import drawings
from tests.support.command import vlcap


@pytest.fixture(scope="module")
def album(tmp_path_factory, real_data):
    """100 photos in many formats, two of them broken."""
    folder = tmp_path_factory.mktemp("album")
    if real_data is None:
        photos = [drawings.draw(number, size=(160, 120)) for number in range(98)]
    else:
        from vlcap.data.captions import read_captions

        captions = read_captions(real_data / "coco-6k-144", "test", limit=98)
        photos = [captions.image(i) for i in range(98)]
    for number, photo in enumerate(photos):
        path = folder / f"{number:03d}.jpg"
        match number % 10:
            case 0:
                exif = Image.Exif()
                exif[0x0112] = 1 + number // 10 % 8
                photo.save(path, exif=exif)
            case 1:
                ImageOps.grayscale(photo).save(path)
            case 2:
                photo.convert("CMYK").save(path)
            case 3:
                photo.convert("RGBA").save(path.with_suffix(".png"))
            case 4:
                photo.save(path.with_suffix(".gif"))
            case 5:
                photo.save(path.with_suffix(".webp"))
            case _:
                photo.save(path)
    whole = io.BytesIO()
    photos[0].save(whole, "JPEG")
    (folder / "098 truncated.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (folder / "099 text.jpg").write_text("not a photo")
    return folder


@pytest.mark.slow
def test_album(album, captioner_folder):
    done = vlcap("caption", album, "--model", captioner_folder)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    names = sorted(path.name for path in album.iterdir())
    assert [line.split(": ")[0] for line in lines] == [str(album / name) for name in names[:98]]
    errors = [line for line in done.stderr.splitlines() if line.startswith("vlcap: ")]
    assert len(errors) == 2, done.stderr
    assert "098 truncated.jpg" in errors[0] and "cut short" in errors[0]
    assert "099 text.jpg" in errors[1] and "not an image" in errors[1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_json_lines(album, captioner_folder):
    photos = sorted(album.iterdir())[:3]
    done = vlcap("caption", *photos, "--model", captioner_folder, "--json", "--budget", 2, "--beams", 2, "--int8")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["image"] for record in records] == [str(path) for path in photos]
    assert all(record.keys() == {"image", "caption", "budget", "score", "ms"} for record in records)
    assert all(record["budget"] == 2 and record["ms"] > 0 > record["score"] for record in records)


@pytest.mark.slow
def test_missing_photo_and_unusual_budget(album, captioner_folder):
    photo = sorted(album.iterdir())[0]
    done = vlcap("caption", "no-such.jpg", photo, "--model", captioner_folder, "--budget", 4)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert "no-such.jpg: no such file" in done.stderr
    assert "trained for budgets 2, 3, not 4" in done.stderr


@pytest.mark.slow
def test_what_a_folder_holds_besides_is_said_at_the_end(captioner_folder, tmp_path):
    drawings.draw(0).save(tmp_path / "a.jpg", "MPO")
    drawings.draw(1).save(tmp_path / "b.j2k")
    (tmp_path / "notes.txt").write_text("a picnic")
    done = vlcap("caption", tmp_path, "--model", captioner_folder)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"vlcap: skipped 1 file that is not an image of a known format: 1 .txt (first: {tmp_path / 'notes.txt'})"
    )
    (tmp_path / "c.jxl").write_bytes(b"\xff\x0a")  # a skipped picture makes the exit status 1
    done = vlcap("caption", tmp_path, "--model", captioner_folder)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 2
    assert "skipped 2 files that are not images of a known format: 1 .jxl, 1 .txt" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_no_such_model(album):
    done = vlcap("caption", sorted(album.iterdir())[0], "--model", "./no/such/model")
    assert done.returncode == 1
    assert re.search(r"vlcap: no captioner can be loaded from \./no/such/model", done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_usage_is_status_2():
    assert vlcap("caption").returncode == 2
    assert vlcap("train", "classifier", "--data", "x", "--out", "y", "--set", "foo=1").returncode == 2


@pytest.mark.slow
def test_debug_shows_the_traceback(tmp_path):
    done = vlcap("--debug", "score", tmp_path / "a.json", tmp_path / "b.json")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "Traceback" not in vlcap("score", tmp_path / "a.json", tmp_path / "b.json").stderr


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    predictions = [{"image_id": n, "caption": drawings.describe(n)[0]} for n in range(8)]
    references = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(8)],
        "annotations": [
            {"id": 3 * n + k, "image_id": n, "caption": text}
            for n in range(8)
            for k, text in enumerate(drawings.describe(n))
        ],
    }
    (folder / "predictions.json").write_text(json.dumps(predictions))
    (folder / "references.json").write_text(json.dumps(references))
    return folder


@pytest.mark.slow
def test_score(scored):
    done = vlcap("score", scored / "predictions.json", scored / "references.json")
    assert done.returncode == 0, done.stderr
    assert re.search(r"CIDEr +\d+\.\d\d +\(x 100, N = 8\)", done.stdout)
    raw = json.loads(vlcap("score", scored / "predictions.json", scored / "references.json", "--json").stdout)
    assert raw.keys() == {"CIDEr", "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "N"}
    assert raw["Bleu_1"] == pytest.approx(1.0)
    assert raw["N"] == 8


@pytest.mark.slow
def test_score_refuses_a_partial_file(scored):
    partial = json.loads((scored / "predictions.json").read_text())[:5]
    (scored / "partial.json").write_text(json.dumps(partial))
    done = vlcap("score", scored / "partial.json", scored / "references.json")
    assert done.returncode == 1
    assert not done.stdout
    assert "3 of 8 images have no prediction (first: 5, 6, 7)" in done.stderr


@pytest.mark.slow
def test_score_agrees_with_the_published_human_level(real_data, tmp_path):
    """COCO val2017's first caption against its other four: CIDEr 0.886518 (5,000 images)."""
    if real_data is None:
        pytest.skip("real data not present")
    data = json.loads((real_data / "coco-annotations" / "captions_val2017.json").read_text())
    seen, predictions, references = Counter(), [], []
    for annotation in data["annotations"]:
        image_id = annotation["image_id"]
        seen[image_id] += 1
        if seen[image_id] == 1:
            predictions.append({"image_id": image_id, "caption": annotation["caption"]})
        elif seen[image_id] <= 5:  # a few images have six
            references.append(annotation)
    (tmp_path / "predictions.json").write_text(json.dumps(predictions))
    (tmp_path / "references.json").write_text(json.dumps({**data, "annotations": references}))
    done = vlcap("score", tmp_path / "predictions.json", tmp_path / "references.json", "--json", "--metric", "CIDEr")
    assert json.loads(done.stdout) == {"CIDEr": pytest.approx(0.886518, abs=1e-6), "N": 5000}


@pytest.mark.slow
def test_evaluate_writes_what_it_depends_on(captioned_folder, captioner_folder, tmp_path):
    done = vlcap(
        "evaluate",
        "--model",
        captioner_folder,
        "--data",
        captioned_folder,
        "--split",
        "val",
        "--budget",
        3,
        "--beams",
        2,
        "--out",
        tmp_path / "results",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert report["N"] == 24 and report["budget"] == 3 and report["split"] == "val"
    assert report["generation"]["num_beams"] == 2
    assert (report["engine"], report["int8"]) == ("pytorch", False)
    assert {"model", "data", "versions", "distinct", "CIDEr"} <= report.keys()
    again = vlcap(
        "score",
        tmp_path / "results" / "predictions.json",
        captioned_folder / "annotations" / "captions_val2014.json",
        "--json",
    )
    assert json.loads(again.stdout)["CIDEr"] == pytest.approx(report["CIDEr"])


@pytest.mark.slow
def test_evaluate_names_the_splits_there_are(captioned_folder, captioner_folder):
    done = vlcap("evaluate", "--model", captioner_folder, "--data", captioned_folder, "--split", "test")
    assert done.returncode == 1
    assert "no split 'test'" in done.stderr and "val2014" in done.stderr


@pytest.mark.slow
def test_encoders():
    [base] = json.loads(vlcap("encoders", "lookupvit_base*", "--json").stdout)
    assert base["budgets"] == [3, 5, 7, 10]
    assert base["gflops_paper_order"]["5"] == pytest.approx(16.5, rel=0.01)
    assert base["gflops"]["5"] < 13.8
    assert base["params"] == pytest.approx(135.5e6, rel=0.01)
    table = vlcap("encoders", "*[mr]*_mini_patch8_96").stdout
    assert all(f"{family}_mini_patch8_96" in table for family in ("tokenlearner12", "tokenlearner34", "vittm"))
    refused = vlcap("encoders", "resnet*")
    assert refused.returncode == 1
    assert "no encoder is called 'resnet*': there are evit" in refused.stderr


def test_help_is_quick_and_light():
    """Help imports nothing heavy. Its time is printed, not asserted, because the machine is noisy."""
    start = time.perf_counter()
    program = "import sys, app.cli; print(*sorted({'torch', 'transformers', 'timm', 'numpy'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split()
    print(f"import of the command: {time.perf_counter() - start:.2f} s")
    assert not loaded
    command = [sys.executable, "-m", "app.cli", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}).stdout
    assert all(command in shown for command in ("caption", "score", "evaluate", "train", "encoders", "demo"))


@pytest.mark.slow
def test_train_from_the_shell(class_folder, tmp_path):
    done = vlcap(
        "train",
        "classifier",
        "--data",
        class_folder,
        "--out",
        tmp_path / "run",
        "--set",
        "encoder=lookupvit_test_patch8_48",
        "--set",
        "steps=2",
        "--set",
        "batch_size=8",
        "--set",
        "workers=0",
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    assert (tmp_path / "run" / "encoder" / "model.safetensors").is_file()
    assert "top1@" in done.stderr
