"""How much a trunk's features tell about the captions at each image size: the table of docs/experiments.md.

    python scripts/trunk_sizes.py --data flickr8k-144 --data coco-6k-144 160 192 224 256

Ridge regression predicts the captions' words from the feature maps, averaged over the photo. The figure is the mean
average precision on validation photos, at the best of five penalties on these same photos: it compares sizes and
nothing else.
"""

from typing import Annotated

import numpy as np
import torch
import typer

from train.classifier import mean_average_precision
from train.frozen import Frozen
from train.labels import LabeledSet, limited, read_words
from train.teacher import start_from
from vlcap.data.images import PixelConfig
from vlcap.model.encoder import Encoder

PENALTIES = (100, 300, 1000, 3000, 10_000)
CHUNK = 32  # photos per batch


def main(
    sizes: Annotated[list[int], typer.Argument(help="Sides in pixels.")],
    data: Annotated[list[str], typer.Option(help="Folder of captioned photos; repeat to join several.")],
    trunk: Annotated[
        str, typer.Option(help="Pretrained classifier that the trunk belongs to.")
    ] = "package:tf_efficientnet_lite2",
    encoder: Annotated[str, typer.Option(help="Hybrid encoder over that trunk.")] = "lookupvit_hybrid_lite2_224",
    photos: Annotated[int, typer.Option(help="Number of training photos; a quarter as many are predicted.")] = 3000,
) -> None:
    """Prints a row per image size: mAP from each feature map and from both."""
    train = read_words(data, "train", words=1000)
    val = limited(read_words(data, "val", words=1000, vocabulary=train.classes), photos // 4)
    train = limited(train, photos)
    print("| size | " + " | ".join(["stride 16", "stride 32", "both"]) + " |\n| --- | --- | --- | --- |")
    for size in sizes:
        hybrid = Encoder.create(encoder)
        start_from(hybrid, trunk)
        pixels = PixelConfig.from_dict({**hybrid.config.pixels, "size": size})
        frozen = Frozen(pixels, hybrid.trunk)
        seen, asked = pooled(frozen, train), pooled(frozen, val)
        views = [*zip(seen, asked, strict=True), (np.concatenate(seen, axis=1), np.concatenate(asked, axis=1))]
        scores = (f"{100 * best_map(x, train.targets.numpy(), y, val.targets > 0):.2f} %" for x, y in views)
        print(f"| {size} | {' | '.join(scores)} |", flush=True)


def pooled(frozen: Frozen, labeled: LabeledSet) -> list[np.ndarray]:
    """The mean of each feature map over the photo: (n, C) per map."""
    transform = frozen.pixels.eval_transform()
    means: list[list[np.ndarray]] = [[] for _ in frozen.maps]
    for start in range(0, len(labeled), CHUNK):
        rows = range(start, min(start + CHUNK, len(labeled)))
        maps = frozen.run(torch.stack([transform(labeled.load(row)) for row in rows]))
        for kept, each in zip(means, maps, strict=True):
            kept.append(each.mean(axis=(2, 3)))
    return [np.concatenate(each) for each in means]


def best_map(x: np.ndarray, targets: np.ndarray, asked: np.ndarray, positive: torch.Tensor) -> float:
    """Mean average precision of ridge regression, at the best penalty."""
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    x, asked, targets = (x - mean) / scale, (asked - mean) / scale, targets - targets.mean(axis=0)
    scores = (asked @ np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ targets) for penalty in PENALTIES)
    return max(mean_average_precision(torch.from_numpy(each), positive) for each in scores)


if __name__ == "__main__":
    typer.run(main)
