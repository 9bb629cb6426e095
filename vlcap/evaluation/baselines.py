"""Baselines for a captioner's score: a person's caption, and the same caption for every photo.

vlcap baselines --data DIR --split test
"""

from collections import Counter

from ..data.captions import CaptionSet
from .metrics import MetricsError, Scores, score


def score_human(captions: CaptionSet) -> Scores:
    """Scores each photo's first caption against its other captions.

    Raises:
        MetricsError: A photo has only one caption.
    """
    references = captions.references()
    alone = [image_id for image_id, texts in references.items() if len(texts) < 2]
    if alone:
        raise MetricsError(
            f"{captions.name} {captions.split}: image {alone[0]} has one caption ({len(alone)} such): the human score "
            "compares a photo's first caption with its others, so every photo needs at least two"
        )
    return score(
        {image_id: texts[0] for image_id, texts in references.items()},
        {image_id: texts[1:] for image_id, texts in references.items()},
    )


def score_constant(captions: CaptionSet, text: str) -> Scores:
    """Scores the same caption for every photo, against all captions of the photo."""
    references = captions.references()
    return score(dict.fromkeys(references, text), references)


def usual_caption(captions: CaptionSet) -> str:
    """The caption that occurs most often in a split; the first of them in a tie."""
    return Counter(text for texts in captions.captions for text in texts).most_common(1)[0][0]
