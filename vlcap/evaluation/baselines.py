"""What a captioner's score is to be read against: a person, and the same caption for every photo.

vlcap baselines --data DIR --split test
"""

from collections import Counter

from ..data.captions import CaptionSet
from .metrics import MetricsError, Scores, score


def score_human(captions: CaptionSet) -> Scores:
    """Each photo's first caption against its others.

    Raises:
        MetricsError: A photo with one caption, which leaves nothing to compare with.
    """
    references = captions.references()
    alone = [image_id for image_id, texts in references.items() if len(texts) < 2]
    if alone:
        raise MetricsError(
            f"{captions.name} {captions.split}: image {alone[0]} has one caption ({len(alone)} such): a person's score "
            "is that of one caption against the photo's others"
        )
    return score(
        {image_id: texts[0] for image_id, texts in references.items()},
        {image_id: texts[1:] for image_id, texts in references.items()},
    )


def score_constant(captions: CaptionSet, text: str) -> Scores:
    """The same caption for every photo, against all of its captions."""
    references = captions.references()
    return score(dict.fromkeys(references, text), references)


def usual_caption(captions: CaptionSet) -> str:
    """The one that people wrote most often in a split; of equals, the first."""
    return Counter(text for texts in captions.captions for text in texts).most_common(1)[0][0]
