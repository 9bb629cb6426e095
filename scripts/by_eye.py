"""Captions judged by a person: right, partly right or wrong, before and now. Prints the counts of the card.

    python scripts/by_eye.py
    python scripts/by_eye.py --data coco-sample-224 --model FOLDER --out docs/by_eye.json  # captions to judge anew

Right: all that the caption says is on the photo, and the main thing is named. Partly: the main thing or the scene is
right, a detail is not. Wrong: the rest. docs/by_eye.json keeps every caption with its verdict.
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
    data: Annotated[str | None, typer.Option(help="Photos, of whose train split all are captioned.")] = None,
    model: Annotated[str | None, typer.Option(help="Captioner folder; the bundled one if left out.")] = None,
    out: Annotated[Path, typer.Option(help="The file of verdicts.")] = FILE,
) -> None:
    """Prints how many captions are right, partly right and wrong; with --data, first writes captions to be judged."""
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
    """The captions of now become those of before, and new ones without a verdict take their place."""
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
