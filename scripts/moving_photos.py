"""Makes videos out of photos: windows that pan or zoom over them, in which no single frame shows the direction.

    PYTHONPATH=. python scripts/moving_photos.py app/demo/examples/photographer.jpg clip.mp4
    PYTHONPATH=. python scripts/moving_photos.py coco-6k-144 motions --motions left right up down

Of one photo, a pan of three seconds. Of a folder of captioned photos, class folders for `vlcap train classifier`, with
captions for `vlcap train captioner`: every photo of its train split in each motion, as a video of eight frames of 64
pixels. Captions say the motion first: "panning left, a dog on a couch". The last photos are held out: they are in val
alone.
"""

import argparse
import sys
from pathlib import Path

from tests.support.clips import MOTIONS, moved, write_captions, write_motions, write_video
from vlcap.data.captions import read_captions
from vlcap.data.images import load_image

PAN = {"frames": 24, "side": 256}  # pixels


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("source", help="a photo, or a folder of captioned photos")
    options.add_argument("out", type=Path, help="the video, or the folder")
    options.add_argument("--photos", type=int, default=300, help="photos of the train split")
    options.add_argument("--held-out", type=int, default=100, help="further photos, of the val split")
    options.add_argument("--motions", nargs="+", choices=MOTIONS, default=MOTIONS)
    asked = options.parse_args()
    if asked.out.exists():
        sys.exit(f"{asked.out} exists already: name another one, or delete it")
    if Path(asked.source).is_dir():
        captions = read_captions(asked.source, "train", limit=asked.photos + asked.held_out)
        if len(captions) <= asked.held_out:
            sys.exit(
                f"{asked.source} has {len(captions)} photos, none of them is left to train on: use fewer --held-out"
            )
        photos = [captions.image(i) for i in range(len(captions))]
        write_motions(asked.out, photos, asked.held_out, asked.motions)
        write_captions(asked.out, captions.captions, asked.held_out, asked.motions)
    else:
        write_video(asked.out, moved(load_image(asked.source), "right", **PAN))


if __name__ == "__main__":
    main()
