"""What a caption costs: GFLOPs of its decoding, milliseconds of encoding and of decoding."""

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from encoders.cost import count_gflops_of

from ..bench.timing import paired_times
from ..captioner import Captioner
from ..tracking import Track, no_track
from .hugging_face import HuggingFaceCaptioner


def count_decoder_gflops(captioner: Captioner, tokens: int, length: int, **generation: Any) -> float:
    """GFLOPs of decoding one caption, counted while the search runs: every beam, and whatever is computed twice.

    Args:
        captioner: Captioner whose decoder is counted.
        tokens: Number of tokens that the decoder reads.
        length: Pieces of the caption, its end included.
        generation: Generation settings over the captioner's own.
    """
    model = captioner.model
    states = torch.zeros(1, tokens, model.encoder.config.hidden_size, device=model.device, dtype=model.dtype)
    exactly = {"min_new_tokens": length, "max_new_tokens": length}
    return count_gflops_of(lambda: captioner.decode_ids(states, **generation | exactly))


def measure_ms(
    entries: Sequence[tuple[Captioner | HuggingFaceCaptioner, int, dict[str, Any]]],
    photos: Sequence[Image.Image],
    track: Track = no_track,
) -> list[tuple[float, float]]:
    """Median milliseconds of encoding and of decoding one photo, for each entry.

    In each round every entry takes its turn on the same photo. Encoders are timed first, then decoders on their tokens.

    Args:
        entries: Captioner, budget and generation settings of each entry.
        photos: The photo of each round; the first round warms up and is not counted.
        track: Progress display.
    """
    if not entries:
        return []
    device = entries[0][0].model.device
    pixels = [deque(captioner.preprocess([photo]) for photo in photos) for captioner, _, _ in entries]
    tokens: list[deque[Any]] = [deque() for _ in entries]  # in each captioner's own form

    def encoding(number: int) -> Callable[[], None]:
        captioner, budget, _ = entries[number]
        return lambda: tokens[number].append(captioner.encode(pixels[number].popleft(), budget))

    def decoding(number: int) -> Callable[[], Any]:
        captioner, _, generation = entries[number]
        return lambda: captioner.decode_ids(tokens[number].popleft(), **generation)

    def medians(what: str, task: Callable[[int], Callable[[], Any]]) -> list[float]:
        functions = {number: task(number) for number in range(len(entries))}
        rounds = len(photos) - 1
        times = paired_times(functions, rounds, device, lambda items, total: track(items, total, f"timing {what}"))
        return [1000 * statistics.median(own) for own in times.values()]

    return list(zip(medians("encoders", encoding), medians("decoders", decoding), strict=True))
