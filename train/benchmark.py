"""Training speed: photos per second and memory of both trainers, by number of processes, and the token cache's cost.

    vlcap bench train                                   # the small recipes, 1 and 2 processes
    vlcap bench train --recipe augreg-i1k-base --batch-size 64 --processes 8

The real trainers run on photos of noise, several processes through torchrun. The rates come from their log.jsonl,
without start-up and evaluation. Rates within a table are comparable; rates from different days on a shared machine are
not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from vlcap.bench.timing import Row, compared, paired_times
from vlcap.data.captions import read_captions
from vlcap.model.encoder import Encoder

from .cache import TokenCache
from .captioner import CachedPhotos, CaptionerRecipe, Captioning
from .classifier import ClassifierRecipe
from .loop import TrainingError
from .progress import Log, read_log
from .recipe import Recipe

RECIPES = ("tiny-imagenet", "captioner-mini")
CACHED = "lookupvit_base_patch16_224"
PHOTOS, CLASSES, CAPTIONS = 256, 4, 5


def bench_training(
    recipes: list[str], processes: list[int], batch_size: int | None = None, steps: int = 60
) -> list[Row]:
    """Measures training; returns a row for each recipe and number of processes.

    Args:
        recipes: Names or paths of the recipes.
        processes: Numbers of processes to measure.
        batch_size: Images per step over all processes, instead of the recipe's.
        steps: Length of each run; the first 20 steps are not measured.

    Raises:
        TrainingError: A run failed; the message has the reason.
    """
    rows: list[dict[str, Any]] = []
    for name in recipes:
        kind, recipe = _load(name)
        for number in processes:
            rate, memory = _measure(kind, recipe, number, batch_size or recipe.batch_size, steps)
            first = next((row["photos_per_s"] for row in rows if row["what"] == name), rate)
            rows.append(
                {
                    "what": name,
                    "processes": number,
                    "batch": batch_size or recipe.batch_size,
                    "photos_per_s": rate,
                    "times_faster": rate / first,
                    "MB_per_process": memory,
                }
            )
    return rows


def bench_cache(rounds: int = 40, batch_size: int = 64) -> list[Row]:
    """Times training steps of a 6-layer, 512-wide decoder on B/16's 5x5 tokens, from the cache and from memory."""
    with TemporaryDirectory() as folder:
        data = _captioned(Path(folder) / "data", side=32, photos=1024)
        Encoder.create(CACHED).save_pretrained(Path(folder) / "encoder")
        recipe = CaptionerRecipe(
            encoder=str(Path(folder) / "encoder"),
            vocab_size=400,
            width=512,
            layers=6,
            heads=8,
            budgets=[5],
            cider=False,
        )
        task = Captioning(recipe, [str(data)], Path(folder) / "run")
        captions = read_captions(data, "train")
        cache = _RandomTokens(Path(folder) / "tokens", task.model.encoder, captions, budgets=[5]).fill()
        cached = CachedPhotos([cache], task.tokenizer, task.max_length)
        held = cache.read("budget5", range(len(captions)), view=0)
        optimizer = torch.optim.AdamW([p for p in task.model.parameters() if p.requires_grad], lr=1e-4)
        numbers = np.random.default_rng(0)

        def step(from_cache: bool) -> None:
            rows = numbers.integers(len(cached), size=batch_size).tolist()
            batch = task.collate([cached[i] for i in rows])
            tokens = cached.tokens(batch, 5) if from_cache else held[rows]
            task.cross_entropy(task.model, tokens, batch, smoothing=0.1).mean.backward()
            optimizer.step()
            optimizer.zero_grad()

        task.model.train()
        times = paired_times({"memory": lambda: step(False), "cache": lambda: step(True)}, rounds)
        return compared(times, against="memory")


class _RandomTokens(TokenCache):
    """A cache of random numbers: reading takes as long as for real tokens."""

    def compute(self, places: list[tuple[int, int]]) -> dict[str, np.ndarray]:
        numbers = np.random.default_rng(places[0][1])
        return {name: numbers.normal(size=(len(places), *shape)) for name, shape in self.shapes.items()}


def _load(name: str) -> tuple[str, Recipe]:
    """Loads a recipe; its keys tell which trainer it is for."""
    values = Recipe._read(name)
    if values.keys() <= ClassifierRecipe.model_fields.keys():
        return "classifier", ClassifierRecipe.load(name)
    return "captioner", CaptionerRecipe.load(name)


def _measure(kind: str, recipe: Any, processes: int, batch_size: int, steps: int) -> tuple[float, float]:
    """Runs a recipe on photos of noise; returns photos per second and the largest process's memory in MB."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        settings: dict[str, Any] = {
            **recipe.model_dump(mode="json"),
            "steps": steps,
            "batch_size": batch_size,
            "evaluate_every": 10**6,
            "save_every": 10**6,
            "limit": None,
        }
        if kind == "captioner" or recipe.target == "words":
            data = _captioned(folder / "data", side=256, photos=PHOTOS)
        else:
            data = _classes(folder / "data", side=256)
        if kind == "captioner":
            settings |= {"cider": False, "start_from": None, "self_critical": 0}
        else:
            settings |= {"init_from": None, "teacher": None, "stream": False}
        if not settings["encoder"] or len(Path(settings["encoder"]).parts) > 1:  # another run's, perhaps not here
            settings["encoder"] = "lookupvit_mini_patch8_96"
            if kind == "captioner":
                Encoder.create(settings["encoder"]).save_pretrained(folder / "encoder")
                settings["encoder"] = str(folder / "encoder")
        (folder / "recipe.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        ran = subprocess.run(
            [
                sys.executable,
                *(launcher if processes > 1 else []),
                "-m",
                "train.benchmark",
                kind,
                str(folder),
                str(data),
            ],
            env={**os.environ, "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes))},
            stderr=subprocess.PIPE,
            text=True,
        )
        if ran.returncode:
            failure = folder / "error"
            reason = failure.read_text() if failure.exists() else ran.stderr.strip()[-500:]
            raise TrainingError(f"{kind} on {processes} processes failed: {reason}")
        log = [line for line in read_log(folder / "run" / "log.jsonl") if "loss" in line]
        begin, end = (next(line for line in log if line["step"] == step) for step in (Log.EVERY, steps))
        memory = max(json.loads(path.read_text()) for path in folder.glob("memory-*.json"))
        return (steps - Log.EVERY) * batch_size / (end["time"] - begin["time"]), memory


def _run(kind: str, folder: Path, data: str) -> None:
    """Runs one process of a measured run."""
    import resource

    from .captioner import train_captioner
    from .classifier import train_classifier

    kinds: dict[str, Any] = {"classifier": ClassifierRecipe, "captioner": CaptionerRecipe}
    trainers: dict[str, Any] = {"classifier": train_classifier, "captioner": train_captioner}
    recipe = kinds[kind].load(str(folder / "recipe.yaml"))
    try:
        trainers[kind](recipe, [data], folder / "run")
    except Exception as error:
        (folder / "error").write_text(str(error))  # torchrun's report leaves it out
        raise
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated() / 1e6
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # Linux counts in kB
    (folder / f"memory-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(memory))


def _photo(number: int, side: int, path: Path) -> None:
    noise = np.random.default_rng(number).integers(256, size=(side // 8, side // 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize((side, side)).save(path)


def _classes(folder: Path, side: int) -> Path:
    for split, photos in (("train", PHOTOS), ("val", CLASSES)):
        for n in range(photos):
            _photo(n, side, folder / split / f"class{n % CLASSES}" / f"{n}.jpg")
    return folder


def _captioned(folder: Path, side: int, photos: int) -> Path:
    words = [f"{a}{b}" for a in "bdfgklmnprstvz" for b in ("ado", "ine", "olu", "er")]
    (folder / "annotations").mkdir(parents=True)
    for split, count in (("train2014", photos), ("val2014", CLASSES)):
        rng = np.random.default_rng(0)
        images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(count)]
        annotations = [
            {"id": n * CAPTIONS + i, "image_id": n, "caption": " ".join(rng.choice(words, size=10))}
            for n in range(count)
            for i in range(CAPTIONS)
        ]
        for n in range(count):
            _photo(n, side, folder / split / f"{n}.jpg")
        (folder / "annotations" / f"captions_{split}.json").write_text(
            json.dumps({"images": images, "annotations": annotations})
        )
    return folder


if __name__ == "__main__":
    _run(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
