"""Captions judged by eye as right, partly right or wrong, before and now. Prints the counts of the card.

    python scripts/by_eye.py
    python scripts/by_eye.py --data coco-sample-224 --model FOLDER --out docs/by_eye.json  # new captions to judge

Right: everything in the caption is on the photo, and the main thing is named. Partly: the main thing or the scene is
right, a detail is wrong. Wrong: all others. docs/by_eye.json holds every caption with its verdict.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from vlcap.files.writing import replacing

VERDICTS = ("right", "partly", "wrong")
FILE = Path(__file__).parents[1] / "docs" / "by_eye.json"


def main(
    data: Annotated[str | None, typer.Option(help="Folder of photos; all of its train split are captioned.")] = None,
    model: Annotated[str | None, typer.Option(help="Captioner folder. Default: the bundled one.")] = None,
    out: Annotated[Path, typer.Option(help="File of verdicts.")] = FILE,
) -> None:
    """Prints how many captions are right, partly right and wrong; with --data, first writes new captions to judge."""
    entries = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else []
    if data is not None:
        entries = captions_to_judge(data, model, entries)
        with replacing(out) as file:
            json.dump(entries, file, indent=1)
    for when in ("before", "now"):
        counts = Counter(entry[when]["verdict"] for entry in entries if when in entry)
        told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
        print(f"{when}: {told}" + (f", {counts[None]} not judged" if counts[None] else ""))


def captions_to_judge(data: str, model: str | None, entries: list[dict]) -> list[dict]:
    """New captions without a verdict; the current ones become the captions of before."""
    from vlcap import Captioner
    from vlcap.data.captions import read_captions

    photos, captioner = read_captions(data, "train"), Captioner.from_pretrained(model)
    known = {entry["image_id"]: entry for entry in entries}
    texts = captioner.caption([photos.image(i) for i in range(len(photos))])
    return [
        {
            "image_id": image_id,
            **({"before": known[image_id]["now"]} if image_id in known else {}),
            "now": {"caption": text, "verdict": None},
        }
        for image_id, text in zip(photos.image_ids, texts, strict=True)
    ]


if __name__ == "__main__":
    typer.run(main)
