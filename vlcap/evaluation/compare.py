"""Captioners x token budgets on one split: the score of each with its uncertainty, and its costs.

    vlcap compare --model multi=RUN/captioner --model vit=RUN2/captioner --data DIR --split test --out RESULTS

The LookupViT paper's Table 3 and Figure 5 (b) on one's own data. What is measured, and how:

- Scores are pycocoevalcap's. The confidence interval of CIDEr is a bootstrap over photos: each photo's CIDEr is
  computed once, with the word weights of the whole split, and then drawn with replacement. All rows share the draws,
  so differences between rows are paired: they are known more precisely than the rows themselves.
- Encoder GFLOPs are 2 x MACs for one photo. Decoder GFLOPs are those of decoding one caption, with the row's search,
  at the same length for every row: the mean length of all captions compared.
- Milliseconds are for one photo at a time: the median of rounds in which every row takes its turn on the same photo.
"""

import copy
import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from encoders import EncoderError
from encoders.cost import count_parameters

from ..bench.machine import describe_device, versions
from ..captioner import Captioner, CaptionerError
from ..data.captions import CaptionSet, read_coco_results, write_coco_results
from ..files.results import check_folder
from ..model.encoder import digest_weights
from .bootstrap import LEVEL, Difference, bootstrap, interval, paired_differences
from .costs import Track, count_decoder_gflops, measure_ms, no_track
from .evaluate import predict
from .metrics import Scores, check_references, score

DRAWS = 2000  # of the bootstrap
ROUNDS = 15  # of timing


@dataclass(frozen=True)
class Contender:
    """A captioner in a comparison, with its name there, its budgets and its generation settings.

    A captioner at another image size than its own is a contender for itself: `family` is the name of the captioner.
    """

    name: str
    captioner: Captioner
    budgets: tuple[int, ...]
    generation: Mapping[str, Any] = field(default_factory=dict)
    family: str | None = None


@dataclass(frozen=True)
class Row:
    """A captioner at one budget. Scores are raw; cider_low and cider_high bound the confidence interval.

    image_size is in pixels. family is the captioner's name where model adds another image size than its own. Both are
    None in results of earlier versions.
    """

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
    image_size: int | None = None
    family: str | None = None

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
class Comparison:
    """All results of `compare`: rows, every paired difference, and the settings that they depend on."""

    rows: list[Row]
    differences: list[Difference]
    setting: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Comparison":
        """Reads what `to_dict` returned, also after a round trip through JSON."""
        return cls(
            rows=[Row(**row) for row in values["rows"]],
            differences=[Difference(**difference) for difference in values["differences"]],
            setting=values["setting"],
        )


class Entry(NamedTuple):
    """A contender at one budget, its captions by image_id, and the file that holds them."""

    contender: Contender
    budget: int
    generation: dict[str, Any]
    texts: dict[int, str]
    path: Path


def contender(
    name: str,
    captioner: Captioner,
    budgets: Sequence[int] | None = None,
    generation: Mapping[str, Any] | None = None,
    image_size: int | None = None,
) -> Contender:
    """A captioner to compare.

    Args:
        name: Name in the tables.
        captioner: The captioner.
        budgets: Budgets to compare at; None for those it was trained for.
        generation: Generation settings over the captioner's own, by Hugging Face's names.
        image_size: Side of the photos in pixels; None for the captioner's own. At another one, the encoder's positional
            embeddings are resampled, and the contender's name says so.

    Raises:
        CaptionerError: A budget or an image size that the encoder can't serve.
    """
    family = name
    if image_size and image_size != captioner.pixels.size:
        name, captioner = f"{name}, {image_size} px", _resized(name, captioner, image_size)
    if not budgets:
        budgets = captioner.budgets
    facts = captioner.facts
    if not facts.has_choice:
        if tuple(budgets) != facts.budgets:
            raise CaptionerError(f"{name}: {facts.architecture} has no choice of budget")
    else:
        most = facts.grid
        if bad := [budget for budget in budgets if not 1 <= budget <= most]:
            raise CaptionerError(f"{name}: budget {bad[0]} doesn't fit, its grid allows 1 to {most}")
    return Contender(name, captioner, tuple(dict.fromkeys(budgets)), {**(generation or {})}, family)


def _resized(name: str, captioner: Captioner, image_size: int) -> Captioner:
    """A copy of a captioner for photos of another size; the given one stays as it is."""
    model = copy.deepcopy(captioner.model)
    try:
        model.encoder.set_image_size(image_size).check_settings()
    except EncoderError as error:
        raise CaptionerError(f"{name}: {error}") from None
    return Captioner.from_model(model, captioner.tokenizer, captioner.name)


def compare(
    contenders: Sequence[Contender],
    captions: CaptionSet,
    out: Path,
    seed: int = 0,
    draws: int = DRAWS,
    rounds: int = ROUNDS,
    track: Track = no_track,
    **generation: Any,
) -> Comparison:
    """Captions a split with every captioner at every budget; scores the captions, counts and times the work.

    Predictions are kept in `out`/predictions under a digest of everything that they depend on. They are reused by a
    later call, also after an interruption.

    Args:
        contenders: Captioners and budgets.
        captions: Split that is captioned.
        out: Folder of the results.
        seed: Random seed for the bootstrap.
        draws: Number of bootstrap draws.
        rounds: Number of timing rounds.
        track: Progress display: (items, how many, what) -> items.
        generation: num_beams, max_new_tokens, ...: Hugging Face's names, over the captioners' own.

    Raises:
        CaptionerError: No captioner, or two of one name.
        JavaError: No Java. Raised before the first photo is captioned.
        MetricsError: The split can't be scored. Raised before the first photo is captioned.
        OutputError: `out` can't be written to. Raised before the first photo is captioned.
        ImageError: A photo can't be read.
    """
    names = [each.name for each in contenders]
    if not names:
        raise CaptionerError("nothing to compare: name at least one captioner")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CaptionerError(f"two captioners are called {twice[0]}: give each a name, as in --model first=FOLDER")
    references = captions.references()
    check_references(references, f"{captions.name}, {captions.split}")
    check_folder(out / "predictions")
    entries = [
        _caption(each, budget, captions, out, {**each.generation, **generation}, track)
        for each in contenders
        for budget in each.budgets
    ]
    scores = [score(entry.texts, references) for entry in entries]
    per_photo = np.array([[each.per_image["CIDEr"][i] for i in captions.image_ids] for each in scores])  # (rows, N)
    means = bootstrap(per_photo, draws, seed)
    length = _mean_length(entries)
    photos = [captions.image(number % len(captions)) for number in range(rounds + 1)]
    times = measure_ms([(each.contender.captioner, each.budget, each.generation) for each in entries], photos, track)
    rows = [
        _row(entry, scored, interval(means[:, number]), length, times[number], out)
        for number, (entry, scored) in enumerate(zip(entries, scores, strict=True))
    ]
    bootstrapped, timed = {"draws": draws, "level": LEVEL, "seed": seed}, {"rounds": rounds, "photos_at_a_time": 1}
    setting = _setting(entries, captions, caption_length=length, bootstrap=bootstrapped, timing=timed)
    return Comparison(rows, paired_differences(per_photo.mean(axis=1), means), setting)


def _setting(entries: Sequence[Entry], captions: CaptionSet, timing: dict[str, Any], **measured: Any) -> dict[str, Any]:
    """What the results depend on besides the captioners."""
    return {
        "data": captions.name,
        "split": captions.split,
        "N": len(captions),
        **measured,
        "timing": {**timing, "threads": torch.get_num_threads()},
        "generation": {each.contender.name: each.contender.captioner.generation(**each.generation) for each in entries},
        "machine": describe_device(entries[0].contender.captioner.model.device),
        "versions": versions(),
    }


def _caption(
    each: Contender, budget: int, captions: CaptionSet, out: Path, generation: dict[str, Any], track: Track
) -> Entry:
    """Captions a split at one budget, unless the predictions are already there."""
    path = out / "predictions" / f"{slug(each.name)}-{budget}-{_key(each, budget, captions, generation)}.json"
    if not path.is_file():
        found: Iterable[Any] = predict(each.captioner, captions, budget=budget, **generation)
        found = track(found, len(captions), f"{each.name}, budget {budget}")
        write_coco_results(path, {image_id: caption.text for image_id, caption in found})
    return Entry(each, budget, generation, read_coco_results(path), path)


def _mean_length(entries: Sequence[Entry]) -> int:
    """Mean length in pieces of all captions compared, or the most that every decoder can write."""
    captioners = [entry.contender.captioner for entry in entries]
    mean = statistics.mean(
        len(ids)
        for entry, captioner in zip(entries, captioners, strict=True)
        for ids in captioner.tokenizer(list(entry.texts.values()))["input_ids"]
    )
    return min(round(mean), *(captioner.model.config.decoder.n_positions for captioner in captioners))


def _row(
    entry: Entry, scored: Scores, cider: tuple[float, float], length: int, times: tuple[float, ...], out: Path
) -> Row:
    """A row of the comparison; `cider` is the interval and `times` are the milliseconds of encoder and decoder."""
    captioner, budget = entry.contender.captioner, entry.budget
    model = captioner.model
    tokens = model.encoder.token_count(budget)
    return Row(
        model=entry.contender.name,
        encoder=model.encoder.config.architecture,
        budget=budget,
        tokens=tokens,
        trained_for=budget in captioner.budgets and entry.contender.family in (None, entry.contender.name),
        N=scored.images,
        CIDEr=scored.values["CIDEr"],
        cider_low=cider[0],
        cider_high=cider[1],
        Bleu_4=scored.values["Bleu_4"],
        ROUGE_L=scored.values["ROUGE_L"],
        distinct=len(set(entry.texts.values())) / len(entry.texts),
        encoder_gflops=model.encoder.gflops(budget),
        decoder_gflops=count_decoder_gflops(captioner, tokens, length, **entry.generation),
        encoder_ms=times[0],
        decoder_ms=times[1],
        encoder_params=count_parameters(model.encoder),
        decoder_params=count_parameters(model) - count_parameters(model.encoder),
        predictions=str(entry.path.relative_to(out)),
        image_size=captioner.pixels.size,
        family=entry.contender.family,
    )


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
        "transformers": version("transformers"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def slug(name: str) -> str:
    """A name as part of a file name: letters, digits and dashes."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
