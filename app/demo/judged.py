"""How often the bundled captioner is right, as its card says."""

from huggingface_hub import ModelCard

from vlcap.captioner import BUNDLED, Captioner


def judged(captioner: Captioner) -> str:
    """A sentence with the figures of the bundled captioner's card; "" for any other captioner."""
    counts = ModelCard.load(BUNDLED / "README.md").data.get("judged") if captioner.is_bundled else None
    if not counts:
        return ""
    return "Of {photos} of its captions, a person found {right} right, {partly} partly right, {wrong} wrong.".format(
        **counts
    )
