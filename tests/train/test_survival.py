"""A training run survives SIGKILL at any moment, SIGTERM, and a second run in its folder."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from train.captioner import CaptionerRecipe
from train.checkpoint import load_checkpoint
from train.classifier import ClassifierRecipe, train_classifier
from train.loop import TrainingError
from vlcap.model.encoder import Encoder

pytestmark = pytest.mark.slow

SETTINGS = {
    "classifier": [
        "encoder=lookupvit_test_patch8_48",
        "workers=1",
        "batch_size=8",
        "budgets=[2,3]",
        "ema_decay=0.9",
        "mixup=0.2",
        "dropout=0.1",
        "auto_augment=rand-n2-m10-mstd0.5",
        "steps=36",
        "save_every=2",
        "evaluate_every=2",
        "limit=80",
    ],
    "captioner": [
        "workers=0",
        "batch_size=8",
        "budgets=[2,3]",
        "ema_decay=0.9",
        "vocab_size=60",
        "width=48",
        "heads=2",
        "layers=1",
        "cache_views=2",
        "steps=36",
        "save_every=2",
        "evaluate_every=2",
        "limit=80",
        "cider=false",
    ],
}

# Imports once. Then, for each line "OUT N SECONDS", forks a training process and kills it SECONDS after it has written
# N more checkpoints; N = -1 lets it finish.
NURSERY = """
import os, signal, sys, time
from pathlib import Path
import matplotlib.figure, torch, torch.utils.tensorboard, transformers.generation
from train import captioner, classifier, progress
torch.set_num_threads(1)
progress.draw_curves = lambda log, image: image.write_bytes(b"curves")  # drawing would take most of the time
kind, data = sys.argv[1], [sys.argv[2]]
recipes = {"classifier": classifier.ClassifierRecipe, "captioner": captioner.CaptionerRecipe}
train = {"classifier": classifier.train_classifier, "captioner": captioner.train_captioner}[kind]
recipe = recipes[kind].load(sys.argv[3])
for line in sys.stdin:
    out, wanted, seconds = line.split()
    there = set(Path(out).glob("checkpoints/step-*.pt"))
    child = os.fork()
    if not child:
        sys.stdout = sys.stderr
        os.setpgid(0, 0)
        train(recipe, data, Path(out))
        os._exit(0)
    written, at = 0, time.monotonic() + float(seconds) if wanted == "0" else None
    answer = None
    while answer is None:
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            answer = "ended"
        elif at and time.monotonic() >= at:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            answer = "killed"
        elif new := set(Path(out).glob("checkpoints/step-*.pt")) - there:
            written, there = written + len(new), there | new
            if not at and written >= int(wanted) > 0:
                at = time.monotonic() + float(seconds)
        time.sleep(0.002)
    print(answer, flush=True)
"""


@pytest.mark.parametrize("kind", ["classifier", "captioner"])
def test_killed_ten_times_it_ends_with_the_same_weights(kind, class_folder, captioned_folder, tmp_path):
    torch.manual_seed(0)
    settings = SETTINGS[kind]
    if kind == "captioner":
        Encoder.create("lookupvit_test_patch8_48").save_pretrained(tmp_path / "encoder")
        settings = [*settings, f"encoder={tmp_path / 'encoder'}"]
    recipe = {"classifier": ClassifierRecipe, "captioner": CaptionerRecipe}[kind].load(None, settings)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    data = class_folder if kind == "classifier" else captioned_folder
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY, kind, str(data), str(tmp_path / "recipe.yaml")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    def run(out, checkpoints, seconds=0.0):
        nursery.stdin.write(f"{out} {checkpoints} {seconds}\n")
        nursery.stdin.flush()
        answer = nursery.stdout.readline().strip()
        assert answer, nursery.communicate()[1][-2000:]
        return answer

    whole = tmp_path / "whole" / "run"
    assert run(whole, -1) == "ended"
    seed = random.randrange(10**6)
    moments = random.Random(seed)
    kills, reached, folders = 0, [], [tmp_path / "killed-0" / "run"]
    while kills < 10:  # soon after the start, or around the next checkpoints
        checkpoints = moments.choice([0, 1, 1, 2])
        if run(folders[-1], checkpoints, moments.uniform(0, 0.3 if checkpoints else 1.0)) == "killed":
            kills += 1
            reached.append(max((int(path.name[5:13]) for path in folders[-1].glob("checkpoints/step-*.pt")), default=0))
        else:  # a fast machine finished before: the remaining kills go to another run
            folders.append(tmp_path / f"killed-{len(folders)}" / "run")
    assert run(folders[-1], -1) == "ended"
    nursery.stdin.close()
    nursery.wait(timeout=30)
    for out in folders:
        expected, found = (load_checkpoint(folder / "checkpoints") for folder in (whole, out))
        assert expected["step"] == found["step"] == 36, (seed, reached)
        for part in ("model", "ema"):
            for name, tensor in expected[part].items():
                assert torch.equal(tensor, found[part][name]), (seed, reached, name)
        logs = [
            [
                (line["step"], line.get("loss"))
                for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines())
            ]
            for folder in (whole, out)
        ]
        assert logs[0] == logs[1], (seed, reached)


def start(out, data, *settings):
    settings = ["encoder=lookupvit_test_patch8_48", "workers=1", "batch_size=24", "steps=100000", *settings]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "app.cli",
            "train",
            "classifier",
            "--data",
            str(data),
            "--out",
            str(out),
            *(part for setting in settings for part in ("--set", setting)),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_for_steps(out, process):
    for _ in range(1200):
        if (out / "log.jsonl").exists() and (out / "log.jsonl").read_text():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    raise AssertionError("no step in two minutes")


def test_sigterm_saves_and_says_so(class_folder, tmp_path):
    """The signal goes to all of the run's processes, as job managers send it. Meanwhile the folder is locked."""
    out = tmp_path / "run"
    process = start(out, class_folder, "save_every=100000")
    wait_for_steps(out, process)
    with pytest.raises(TrainingError, match="being written by another run"):
        train_classifier(ClassifierRecipe.load(None, ["steps=1"]), [str(class_folder)], out)
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    last = said.strip().replace("\n", "")  # the console wraps its lines
    step = load_checkpoint(out / "checkpoints")["step"]
    assert step >= 10
    assert f"stopped by SIGTERM after step {step} of 100000, saved as" in last
    assert "the same command resumes the run" in last
    assert "Traceback" not in said
