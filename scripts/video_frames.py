"""How many frames should a caption of a video be read from? CIDEr of captions of moving windows over photos.

    PYTHONPATH=. python scripts/video_frames.py DIR --limit 200 --frames 1 2 4 8

Each test photo of DIR becomes two videos: a pan, whose square window of 75 % of the short side moves from one end of
the photo to the other, and a zoom out of its middle, from 55 % of the short side to the whole square. Its captions are
compared with those that people wrote for the whole photo, so a frame alone shows only a part of what they saw. The
videos are not compressed. The first line has the photo itself, read as usual; the others have what fewer frames lose
against the most frames, with the 95 % interval of a paired bootstrap over the photos.
"""

import argparse

import numpy as np

from tests.support.clips import moved
from vlcap import Captioner
from vlcap.data.captions import read_captions
from vlcap.evaluation.bootstrap import bootstrap, interval
from vlcap.evaluation.metrics import score

LENGTH = 48  # frames of a video
DRAWS = 2000  # of the bootstrap


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

    def cider(batches) -> np.ndarray:
        """CIDEr x 100 of each photo."""
        found = captioner.caption_batches(batches, asked.budget)
        predictions = {i: best.text for i, [best] in enumerate(found)}
        each = score(predictions, references, ["CIDEr"]).per_image["CIDEr"]
        return 100 * np.array([each[i] for i in range(len(photos))])

    whole = cider(captioner.preprocess([photo]) for photo in photos)
    print(f"CIDEr x 100 of {len(photos)} photos: {whole.mean():.1f}", flush=True)
    for name, motion in (("pan", "right"), ("zoom", "out")):
        found = np.stack(
            [cider(_clip(captioner, photo, motion, count) for photo in photos) for count in sorted(asked.frames)]
        )
        means = bootstrap(found, DRAWS, seed=0)
        for count, own, drawn in zip(sorted(asked.frames), found.mean(axis=1), means.T, strict=True):
            low, high = interval(drawn - means[:, -1])
            against = f"; against {max(asked.frames)}: {own - found[-1].mean():+.1f}, {low:+.1f} to {high:+.1f}"
            print(f"{name}, frames {count}: {own:.1f}{against if count < max(asked.frames) else ''}", flush=True)


def _clip(captioner: Captioner, photo, motion: str, count: int) -> np.ndarray:
    """Pixels (1, F, 3, S, S) of the frames in the middle of equal stretches."""
    frames = moved(photo, motion, LENGTH, side=min(photo.size))
    chosen = [frames[int((i + 0.5) * LENGTH / count)] for i in range(count)]
    return captioner.preprocess(chosen)[None]


if __name__ == "__main__":
    main()
