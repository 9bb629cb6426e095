"""What a captioner gets wrong, by the content of the photo: the tables of its card.

    vlcap evaluate --data DIR --split test --out RESULTS
    python scripts/failures.py --data DIR --split test --predictions RESULTS/predictions.json

A photo shows a thing if at least three of its human captions name it.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from vlcap.data.captions import read_captions, read_coco_results
from vlcap.errors import VlcapError
from vlcap.evaluation.metrics import score

AGREED = 3  # human captions that must name a thing
KINDS = {
    "dog": "dog dogs puppy",
    "other animal": "cat cats horse horses bird birds cow cows sheep elephant elephants giraffe giraffes zebra zebras "
    "bear bears",
    "child": "child children boy boys girl girls kid kids baby toddler",
    "man or woman": "man men woman women person people lady guy",
    "sport": "soccer football baseball basketball tennis skateboard skateboarder snowboard snowboarder skier skiing "
    "ski surfer surfboard surfing frisbee bat racket",
    "bicycle, motorcycle": "bike bicycle bicyclist biker motorcycle motorbike",
    "other vehicle": "car cars bus buses truck train trains airplane plane boat boats",
    "food": "pizza food sandwich cake plate fruit bowl broccoli banana bananas",
    "water": "water ocean beach lake river pool wave waves",
    "snow": "snow snowy",
    "street, building": "street building buildings city sidewalk road sign",
    "room": "kitchen bathroom bed room table couch toilet desk",
}
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words.split()}


def main(
    data: Annotated[str, typer.Option(help="Folder of captioned photos.")],
    predictions: Annotated[Path, typer.Option(help="COCO result file with a caption for each photo.")],
    split: Annotated[str, typer.Option(help="Split that was captioned.")] = "test",
) -> None:
    """Prints how often captions repeat and, per kind of thing, their score and the wrong things they name."""
    try:
        captions, said = read_captions(data, split), read_coco_results(predictions)
        cider = score(said, captions.references(), metrics=("CIDEr",)).per_image["CIDEr"]
    except VlcapError as error:
        sys.exit(str(error))
    references = {i: [words(text) for text in texts] for i, texts in captions.references().items()}
    mine = dict(zip(said, map(words, said.values()), strict=True))
    repeated(list(said.values()), mine.values(), references.values())
    by_kind(cider, mine, references)
    print("\nOf every tenth photo, the ten best and the ten worst captions:\n")
    ranked = sorted(list(said)[::10], key=cider.__getitem__, reverse=True)
    for i in ranked[:10] + ranked[-10:]:
        print(f"- {said[i]} ({100 * cider[i]:.0f}; human: {captions.references()[i][0].strip(' .')})")


def by_kind(cider: dict[int, float], mine: dict[int, set[str]], references: dict[int, list[set[str]]]) -> None:
    """Prints a row per kind of thing: photos that show it, CIDEr, how often it is named, and what is named wrongly.

    Args:
        cider: CIDEr of each photo's caption.
        mine: Words of each photo's caption.
        references: Words of each photo's human captions.
    """
    present = {i: agreed(texts) for i, texts in references.items()}
    print("\n| on the photo | photos | CIDEr x 100 | named | named although not on the photo |")
    print("| --- | --- | --- | --- | --- |")
    for kind in KINDS:
        there = [i for i, kinds in present.items() if kind in kinds]
        if not there:
            continue
        named = sum(kind in kinds_of(mine[i]) for i in there) / len(there)
        wrong = Counter(other for i in there for other in kinds_of(mine[i]) - kinds_of(set().union(*references[i])))
        often = ", ".join(f"{other} {100 * times / len(there):.0f} %" for other, times in wrong.most_common(3))
        mean = 100 * sum(cider[i] for i in there) / len(there)
        print(f"| {kind} | {len(there)} | {mean:.1f} | {100 * named:.0f} % | {often} |")
    absent = [i for i, kinds in present.items() if not kinds]
    if absent:
        print(f"| none of these | {len(absent)} | {100 * sum(cider[i] for i in absent) / len(absent):.1f} | | |")


def repeated(texts: list[str], mine: Iterable[set[str]], references: Iterable[list[set[str]]]) -> None:
    """Prints the share of distinct captions, the most frequent one, and how much of the human vocabulary is used."""
    often, times = Counter(texts).most_common(1)[0]
    used = set().union(*mine)
    people = Counter(word for theirs in references for word in set().union(*theirs))
    common = {word for word, photos in people.items() if photos >= len(texts) / 100}
    never = [word for word, _ in people.most_common() if word in common - used]
    print(f"{len(texts)} photos, {len(set(texts))} distinct captions ({100 * len(set(texts)) / len(texts):.0f} %)")
    print(f"most frequent, {times} times ({100 * times / len(texts):.1f} %): {often}")
    print(
        f"{len(used)} words used; of the {len(common)} words that humans use for at least 1 % of the photos, "
        f"{len(never)} are never used: {', '.join(never[:40])}"
    )


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))


def kinds_of(text: set[str]) -> set[str]:
    return {KIND_OF[word] for word in text & KIND_OF.keys()}


def agreed(texts: list[set[str]]) -> set[str]:
    """The kinds of things that enough of a photo's human captions name."""
    votes = Counter(kind for text in texts for kind in kinds_of(text))
    return {kind for kind, people in votes.items() if people >= min(AGREED, len(texts))}


if __name__ == "__main__":
    typer.run(main)
