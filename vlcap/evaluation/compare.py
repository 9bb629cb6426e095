"""Captioners x token budgets on one split: what each scores, with its uncertainty, and what it costs.

    vlcap compare --model multi=RUN/captioner --model vit=RUN2/captioner --data DIR --split test --out RESULTS

The LookupViT paper's Table 3 and Figure 5 (b) on one's own data. What is measured, and how:

- Scores are pycocoevalcap's. CIDEr's confidence interval comes from a bootstrap over the photos: their own CIDErs,
  computed once, with the word weights of the whole split, are drawn again with replacement. The same draws serve every
  row, so that differences between rows are paired: they are known better than the rows themselves.
- Encoder GFLOPs are 2 x MACs for one photo. Decoder GFLOPs are those of decoding one caption, search and all, of the
  same length for every row: the mean of all captions compared.
- Milliseconds are for one photo at a time, the median of rounds in which every row takes its turn on the same photo.
"""

import hashlib
import json
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from encoders.cost import count_parameters

from ..bench.machine import describe_device, versions
from ..bench.timing import paired_times
from ..captioner import Captioner, CaptionerError
from ..data.captions import CaptionSet, read_coco_results, write_coco_results
from ..files.results import check_folder
from ..model.encoder import digest_weights
from .evaluate import predict
from .metrics import check_references, score

DRAWS = 2000  # of the bootstrap
LEVEL = 0.95  # of the confidence interval
ROUNDS = 15  # of timing; the first, which warms up, is not counted


@dataclass(frozen=True)
class Contender:
    """A captioner, what to call it, and the budgets that it is to be compared at."""

    name: str
    captioner: Captioner
    budgets: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A captioner at one budget. Scores are raw, cider_low and cider_high the ends of the confidence interval."""

    model: str
    encoder: str
    budget: int
    tokens: int
    trained_for: bool
    N: int
    CIDEr: float
    cider_low: float
    cider_high: float
    Bleu_4: float
    ROUGE_L: float
    distinct: float
    encoder_gflops: float
    decoder_gflops: float
    encoder_ms: float
    decoder_ms: float
    encoder_params: int
    decoder_params: int
    predictions: str

    @property
    def gflops(self) -> float:
        return self.encoder_gflops + self.decoder_gflops

    @property
    def ms(self) -> float:
        return self.encoder_ms + self.decoder_ms

    @property
    def label(self) -> str:
        return f"{self.model}, {self.tokens} tokens"


@dataclass(frozen=True)
class Difference:
    """How much more `row` scores than `than`, in raw CIDEr on the same photos; both by number."""

    row: int
    than: int
    CIDEr: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """All that `compare` found: rows, every paired difference, and what they depend on."""

    rows: list[Row]
    differences: list[Difference]
    setting: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Comparison":
        """Reads what `to_dict` gave, also after a journey through JSON."""
        return cls(
            rows=[Row(**row) for row in values["rows"]],
            differences=[Difference(**difference) for difference in values["differences"]],
            setting=values["setting"],
        )


def contender(name: str, captioner: Captioner, budgets: Sequence[int] | None = None) -> Contender:
    """A captioner to be compared at some budgets; None for those it was trained for, or its only one.

    Raises:
        CaptionerError: A budget that the encoder can't serve.
    """
    if not budgets:
        return Contender(name, captioner, tuple(captioner.budgets))
    encoder = captioner.model.encoder
    if not encoder.has_choice:
        if tuple(budgets) != tuple(captioner.budgets):
            raise CaptionerError(f"{name}: {encoder.config.architecture} has no choice of budget")
        return Contender(name, captioner, tuple(budgets))
    most = encoder.grid_side()
    if bad := [budget for budget in budgets if not 1 <= budget <= most]:
        raise CaptionerError(f"{name}: budget {bad[0]} doesn't fit, its grid allows 1 to {most}")
    return Contender(name, captioner, tuple(dict.fromkeys(budgets)))


def compare(
    contenders: Sequence[Contender],
    captions: CaptionSet,
    out: Path,
    seed: int = 0,
    draws: int = DRAWS,
    rounds: int = ROUNDS,
    track: Callable[[Iterable, int, str], Iterable] = lambda items, total, what: items,
    **generation: Any,
) -> Comparison:
    """Captions a split by every captioner at every budget, scores, counts and times.

    Predictions are kept in `out`/predictions under a digest of all that they depend on: asked again, or after an
    interruption, those that are there are not computed anew.

    Args:
        contenders: Captioners and budgets.
        captions: The split.
        out: Folder of the results.
        seed: Of the bootstrap.
        draws: Of the bootstrap.
        rounds: Of timing.
        track: (items, how many, what) -> items, to show progress.
        generation: num_beams, max_new_tokens, ...: Hugging Face's names, over the captioners' own.

    Raises:
        CaptionerError: No captioner, or two of one name.
        JavaError: No Java, before a photo is captioned.
        MetricsError: The split can't be scored, likewise.
        OutputError: Nothing can be written into `out`, likewise.
        ImageError: A photo can't be read.
    """
    names = [each.name for each in contenders]
    if not names:
        raise CaptionerError("nothing to compare: name at least one captioner")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CaptionerError(f"two captioners are called {twice[0]}: give each a name, as in --model first=FOLDER")
    check_references(captions.references(), f"{captions.name}, {captions.split}")
    check_folder(out / "predictions")
    entries = [(each, budget) for each in contenders for budget in each.budgets]
    paths, texts = [], []
    for each, budget in entries:
        path = out / "predictions" / f"{slug(each.name)}-{budget}-{_key(each, budget, captions, generation)}.json"
        if not path.is_file():
            found: Iterable[Any] = predict(each.captioner, captions, budget=budget, **generation)
            found = track(found, len(captions), f"{each.name}, budget {budget}")
            write_coco_results(path, {image_id: caption.text for image_id, caption in found})
        paths.append(path)
        texts.append(read_coco_results(path))

    references = captions.references()
    scores = [score(mine, references) for mine in texts]
    per_photo = np.array([[each.per_image["CIDEr"][i] for i in captions.image_ids] for each in scores])  # (rows, N)
    means = bootstrap(per_photo, draws, seed)
    length = round(
        statistics.mean(
            len(ids)
            for (each, _), mine in zip(entries, texts, strict=True)
            for ids in each.captioner.tokenizer(list(mine.values()))["input_ids"]
        )
    )
    times = measure_ms(entries, captions, rounds, track, **generation)
    rows = []
    for number, ((each, budget), path, mine, scored) in enumerate(zip(entries, paths, texts, scores, strict=True)):
        model = each.captioner.model
        tokens = model.encoder.token_count(budget)
        low, high = interval(means[:, number])
        rows.append(
            Row(
                model=each.name,
                encoder=model.encoder.config.architecture,
                budget=budget,
                tokens=tokens,
                trained_for=budget in each.captioner.budgets,
                N=scored.images,
                CIDEr=scored.values["CIDEr"],
                cider_low=low,
                cider_high=high,
                Bleu_4=scored.values["Bleu_4"],
                ROUGE_L=scored.values["ROUGE_L"],
                distinct=len(set(mine.values())) / len(mine),
                encoder_gflops=model.encoder.gflops(budget),
                decoder_gflops=count_decoder_gflops(each.captioner, tokens, length, **generation),
                encoder_ms=times[number][0],
                decoder_ms=times[number][1],
                encoder_params=count_parameters(model.encoder),
                decoder_params=count_parameters(model) - count_parameters(model.encoder),
                predictions=str(path.relative_to(out)),
            )
        )
    return Comparison(
        rows,
        differences=paired_differences(per_photo.mean(axis=1), means),
        setting={
            "data": captions.name,
            "split": captions.split,
            "N": len(captions),
            "caption_length": length,
            "bootstrap": {"draws": draws, "level": LEVEL, "seed": seed},
            "timing": {"rounds": rounds, "photos_at_a_time": 1, "threads": torch.get_num_threads()},
            "generation": {each.name: each.captioner.generation(**generation) for each in contenders},
            "machine": describe_device(contenders[0].captioner.model.device),
            "versions": versions(),
        },
    )


def bootstrap(per_photo: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Means (draws, rows) of scores (rows, N) over photos drawn with replacement, the same for every row."""
    photos = per_photo.shape[1]
    generator = np.random.default_rng(seed)
    return np.stack([per_photo[:, generator.integers(photos, size=photos)].mean(axis=1) for _ in range(draws)])


def interval(means: np.ndarray) -> tuple[float, float]:
    """The percentile interval of bootstrapped means."""
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_differences(scores: np.ndarray, means: np.ndarray) -> list[Difference]:
    """Of every pair of rows: scores (rows,), means (draws, rows)."""
    return [
        Difference(row, than, float(scores[row] - scores[than]), *interval(means[:, row] - means[:, than]))
        for row in range(len(scores))
        for than in range(len(scores))
        if row != than
    ]


def pareto(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Numbers of the points that none beats, cheapest first: no other costs as little or less and scores more."""
    front: list[int] = []
    for number in sorted(range(len(costs)), key=lambda number: (costs[number], -scores[number])):
        if not front or scores[number] > scores[front[-1]]:
            front.append(number)
    return front


def count_decoder_gflops(captioner: Captioner, tokens: int, length: int, **generation: Any) -> float:
    """GFLOPs of decoding one caption of `length` pieces, its end included, from so many tokens, as the search does it.

    Counted while it runs: every beam, and whatever the decoder computes twice.
    """
    model = captioner.model
    states = torch.zeros(1, tokens, model.encoder.config.hidden_size, device=model.device, dtype=model.dtype)
    exactly = {"min_new_tokens": length, "max_new_tokens": length}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        captioner.decode_ids(states, **generation | exactly)
    return counter.get_total_flops() / 1e9


def measure_ms(
    entries: Sequence[tuple[Contender, int]],
    captions: CaptionSet,
    rounds: int,
    track: Callable[[Iterable, int, str], Iterable] = lambda items, total, what: items,
    **generation: Any,
) -> list[tuple[float, float]]:
    """Median milliseconds of encoding and of decoding one photo, for each entry.

    In each round every entry takes its turn on the same photo. Encoding and decoding are timed one after the other.
    """
    device = entries[0][0].captioner.model.device
    pixels: list[deque[torch.Tensor]] = [deque() for _ in entries]
    tokens: list[deque[torch.Tensor]] = [deque() for _ in entries]
    for turn in range(rounds + 1):
        photo = captions.image(turn % len(captions))
        for waiting, (each, _) in zip(pixels, entries, strict=True):
            waiting.append(each.captioner.preprocess([photo]))

    def encoding(number: int) -> Callable[[], None]:
        each, budget = entries[number]
        return lambda: tokens[number].append(each.captioner.encode(pixels[number].popleft(), budget))

    def decoding(number: int) -> Callable[[], Any]:
        captioner = entries[number][0].captioner
        return lambda: captioner.decode_ids(tokens[number].popleft(), **generation)

    def medians(what: str, task: Callable[[int], Callable[[], Any]]) -> list[float]:
        functions = {number: task(number) for number in range(len(entries))}
        times = paired_times(functions, rounds, device, lambda items, total: track(items, total, f"timing {what}"))
        return [1000 * statistics.median(own) for own in times.values()]

    return list(zip(medians("encoders", encoding), medians("decoders", decoding), strict=True))


def _key(each: Contender, budget: int, captions: CaptionSet, generation: dict[str, Any]) -> str:
    """Digest of everything that predictions depend on."""
    model = each.captioner.model
    encoder = model.encoder.config
    parts = {
        "weights": digest_weights(model),
        "architecture": encoder.architecture,
        "model_args": encoder.model_args,
        "pixels": encoder.pixels,
        "decoder": model.config.decoder.to_dict(),
        "vocabulary": each.captioner.tokenizer.get_vocab(),
        "generation": each.captioner.generation(**generation),
        "budget": budget,
        "data": captions.fingerprint(),
        **versions(["transformers"]),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def slug(name: str) -> str:
    """A name as part of a file's: letters, digits and dashes."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
