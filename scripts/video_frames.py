"""How many frames should a caption of a video be read from? CIDEr of captions of moving windows over photos.

    PYTHONPATH=. python scripts/video_frames.py DIR --limit 200 --frames 1 2 4 8

Each test photo of DIR becomes two videos: a pan, whose square window of 75 % of the short side moves from one end of
the photo to the other, and a zoom from 55 % of the side to the whole square. Its captions are compared with those
that people wrote for the whole photo, so a frame alone shows only a part of what they saw. The videos are not
compressed. A first row has the photo itself, read as usual.
"""

import argparse

import numpy as np

from tests.support.clips import moved
from vlcap import Captioner
from vlcap.data.captions import read_captions
from vlcap.evaluation.metrics import score

LENGTH = 48  # frames of a video


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("data")
    options.add_argument("--limit", type=int, default=200)
    options.add_argument("--frames", type=int, nargs="+", default=[1, 2, 4, 8])
    options.add_argument("--budget", type=int)
    asked = options.parse_args()
    captioner = Captioner.from_pretrained()
    captions = read_captions(asked.data, "test", limit=asked.limit)
    photos = [captions.image(i) for i in range(len(captions))]
    references = dict(enumerate(captions.captions))

    def cider(batches) -> float:
        found = captioner.caption_batches(batches, asked.budget)
        predictions = {i: best.text for i, [best] in enumerate(found)}
        return 100 * score(predictions, references, ["CIDEr"]).values["CIDEr"]

    whole = cider(captioner.preprocess([photo]) for photo in photos)
    print(f"CIDEr x 100 of {len(photos)} photos of {asked.data}: {whole:.1f}", flush=True)
    for motion in ("right", "out"):
        for count in asked.frames:
            value = cider(_clip(captioner, photo, motion, count) for photo in photos)
            print(f"{motion}, {count} frames: {value:.1f}", flush=True)


def _clip(captioner: Captioner, photo, motion: str, count: int) -> np.ndarray:
    """Pixels (1, F, 3, S, S) of the frames in the middle of equal stretches."""
    frames = moved(photo, motion, LENGTH, side=min(photo.size))
    chosen = [frames[int((i + 0.5) * LENGTH / count)] for i in range(count)]
    return np.stack([captioner.pixels.cut(frame) for frame in chosen])[None]


if __name__ == "__main__":
    main()
