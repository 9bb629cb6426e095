"""Photos for tests, drawn: a shape of one color on a noisy ground, and what people might say of it."""

import io
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220), "yellow": (230, 210, 50)}
SHAPES = ("circle", "square")


def kind(number: int) -> tuple[str, str]:
    """Color and shape of drawing number `number`; eight in a row are all different."""
    return list(COLORS)[number % 4], SHAPES[number // 4 % 2]


def draw(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    color, shape = kind(number)
    ground = np.random.default_rng(number).integers(90, 160, (*size[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(ground)
    rng = random.Random(number)
    side = min(size) // 2
    x, y = rng.randrange(size[0] - side), rng.randrange(size[1] - side)
    pen = ImageDraw.Draw(image)
    (pen.ellipse if shape == "circle" else pen.rectangle)((x, y, x + side, y + side), fill=COLORS[color])
    return image


def describe(number: int) -> list[str]:
    color, shape = kind(number)
    return [
        f"A {color} {shape}.",
        f"there is a {color} {shape} on grey paper",
        f"a {shape} that is {color} , on a noisy ground .",
    ]


def captions(count: int) -> list[str]:
    return [text for number in range(count) for text in describe(number)]


def write_coco_folder(folder: Path, splits: dict[str, int]) -> Path:
    """COCO's layout: annotations/captions_{split}.json and {split}/photos."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    number = 0
    for split, count in splits.items():
        (folder / split).mkdir()
        images, annotations = [], []
        for _ in range(count):
            name = f"COCO_{split}_{number:012d}.png"
            draw(number).save(folder / split / name)
            images.append({"id": number, "file_name": name})
            for text in describe(number):
                annotations.append({"id": len(annotations), "image_id": number, "caption": text})
            number += 1
        (folder / "annotations" / f"captions_{split}.json").write_text(
            json.dumps({"images": images, "annotations": annotations})
        )
    return folder


def write_class_folders(folder: Path, splits: dict[str, int]) -> Path:
    """An image folder: {split}/{color}/photos."""
    for split, count in splits.items():
        for number in range(count):
            path = folder / split / kind(number)[0] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(number).save(path)
    return folder


def write_parquet(path, numbers, names=tuple(COLORS)):
    """Drawings with a class and captions each: for readers of either."""
    import datasets

    def png(number):
        file = io.BytesIO()
        draw(number).save(file, format="PNG")
        return {"bytes": file.getvalue(), "path": f"{number}.png"}

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(names)),
            "captions": [datasets.Value("string")],
        }
    )
    datasets.Dataset.from_dict(
        {
            "image": [png(n) for n in numbers],
            "label": [names.index(kind(n)[0]) for n in numbers],
            "captions": [describe(n) for n in numbers],
        },
        features=features,
    ).to_parquet(path)
