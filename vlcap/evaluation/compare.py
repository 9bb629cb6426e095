"""Captioners x token budgets on one split: the score of each with its uncertainty, and its costs.

    vlcap compare --model multi=RUN/captioner --model vit=RUN2/captioner --data DIR --split test --out RESULTS

Rows may come from elsewhere: third-party captioners (hugging_face.py), and captions that another program has written.

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
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from encoders import EncoderError

from ..bench.machine import describe_device, versions
from ..captioner import Captioner, CaptionerError
from ..data.captions import CaptionSet, read_coco_results, write_coco_results
from ..files.results import check_folder
from ..tracking import Track, no_track
from .bootstrap import LEVEL, bootstrap, interval, paired_differences
from .costs import measure_ms
from .evaluate import predict
from .hugging_face import HuggingFaceCaptioner
from .metrics import Scores, check_predictions, check_references, score
from .rows import Comparison, Row
from .subjects import Subject, subject

DRAWS = 2000  # of the bootstrap
ROUNDS = 15  # of timing


@dataclass(frozen=True)
class Contender:
    """A captioner in a comparison, with its name there, its budgets and its generation settings.

    A captioner at another image size than its own is a contender for itself: `family` is the name of the captioner.
    """

    name: str
    captioner: Captioner | HuggingFaceCaptioner
    budgets: tuple[int, ...]
    generation: Mapping[str, Any] = field(default_factory=dict)
    family: str | None = None


@dataclass(frozen=True)
class Predictions:
    """Captions in a comparison that another program has written.

    Attributes:
        name: Name in the tables.
        path: COCO result file with one caption for each photo of the split.
        gflops: GFLOPs (2 x MACs) per photo, as whoever made them says; None if they are not known.
    """

    name: str
    path: Path
    gflops: float | None = None


class Entry(NamedTuple):
    """A contender at one budget, its captions by image_id, and the file that holds them."""

    contender: Contender
    budget: int
    generation: dict[str, Any]
    texts: dict[int, str]
    path: Path

    @property
    def subject(self) -> Subject:
        return subject(self.contender.captioner)


class Foreign(NamedTuple):
    """Captions that another program has written, by image_id, and the copy of them beside the other predictions."""

    source: Predictions
    texts: dict[int, str]
    path: Path


def has_choice(captioner: Captioner | HuggingFaceCaptioner) -> bool:
    """Whether a captioner serves other budgets than its own."""
    return not isinstance(captioner, HuggingFaceCaptioner) and captioner.facts.has_choice


def contender(
    name: str,
    captioner: Captioner | HuggingFaceCaptioner,
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
    if isinstance(captioner, HuggingFaceCaptioner):
        if image_size or (budgets and [*budgets] != captioner.budgets):
            raise CaptionerError(f"{name}: a third-party captioner has its own image size and no choice of budget")
        return Contender(name, captioner, tuple(captioner.budgets), {**(generation or {})}, name)
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
    contenders: Sequence[Contender | Predictions],
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
        contenders: Captioners and budgets, and captions of other programs.
        captions: Split that is captioned.
        out: Folder of the results.
        seed: Random seed for the bootstrap.
        draws: Number of bootstrap draws.
        rounds: Number of timing rounds.
        track: Progress display: (items, how many, what) -> items.
        generation: num_beams, max_new_tokens, ...: Hugging Face's names, over the captioners' own.

    Raises:
        CaptionerError: No captioner, or two of one name; or the split has videos.
        CaptionDataError: A file of captions of another program can't be read.
        JavaError: No Java. Raised before the first photo is captioned.
        MetricsError: The split can't be scored, or a file has captions of other photos. Raised before the first photo
            is captioned.
        OutputError: `out` can't be written to. Raised before the first photo is captioned.
        ImageError: A photo can't be read.
    """
    _check_names([each.name for each in contenders])
    if captions.has_videos:
        raise CaptionerError(
            f"{captions.name} has videos, and costs here are those of a photo: vlcap evaluate scores captions of videos"
        )
    references = captions.references()
    check_references(references, f"{captions.name}, {captions.split}")
    check_folder(out / "predictions")
    entries = _captioned(contenders, captions, out, generation, track)
    scores = [score(entry.texts, references) for entry in entries]
    per_photo = np.array([[each.per_image["CIDEr"][i] for i in captions.image_ids] for each in scores])  # (rows, N)
    means = bootstrap(per_photo, draws, seed)
    run = [entry for entry in entries if isinstance(entry, Entry)]
    length = _mean_length(run) if run else None
    photos = [captions.image(number % len(captions)) for number in range(rounds + 1)] if run else []
    times = measure_ms([(each.contender.captioner, each.budget, each.generation) for each in run], photos, track)
    facts = iter([_facts(each, length or 0, own) for each, own in zip(run, times, strict=True)])
    rows = [
        Row(
            **(next(facts) if isinstance(entry, Entry) else _foreign_facts(entry.source)),
            **_scores(entry.texts, scored, interval(means[:, number])),
            predictions=str(entry.path.relative_to(out)),
        )
        for number, (entry, scored) in enumerate(zip(entries, scores, strict=True))
    ]
    bootstrapped, timed = {"draws": draws, "level": LEVEL, "seed": seed}, {"rounds": rounds, "photos_at_a_time": 1}
    setting = _setting(run, captions, caption_length=length, bootstrap=bootstrapped, timing=timed)
    return Comparison(rows, paired_differences(per_photo.mean(axis=1), means), setting)


def _captioned(
    contenders: Sequence[Contender | Predictions],
    captions: CaptionSet,
    out: Path,
    generation: dict[str, Any],
    track: Track,
) -> list[Entry | Foreign]:
    """Every row's captions. Those of other programs are read first: they may be of other photos."""
    foreign = {each.name: _read(each, captions, out) for each in contenders if isinstance(each, Predictions)}
    entries: list[Entry | Foreign] = []
    for each in contenders:
        if isinstance(each, Predictions):
            entries.append(foreign[each.name])
            continue
        settings = {**each.generation, **generation}
        entries += [caption_split(each, budget, captions, out, settings, track) for budget in each.budgets]
    return entries


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise CaptionerError("nothing to compare: name at least one captioner")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CaptionerError(f"two captioners are called {twice[0]}: give each a name, as in --model first=FOLDER")


def _setting(entries: Sequence[Entry], captions: CaptionSet, timing: dict[str, Any], **measured: Any) -> dict[str, Any]:
    """What the results depend on besides the captioners."""
    device = entries[0].contender.captioner.model.device if entries else torch.device("cpu")
    return {
        "data": captions.name,
        "split": captions.split,
        "N": len(captions),
        **measured,
        "timing": {**timing, "threads": torch.get_num_threads()},
        "generation": {each.contender.name: each.contender.captioner.generation(**each.generation) for each in entries},
        "machine": describe_device(device),
        "versions": versions(),
    }


def _read(each: Predictions, captions: CaptionSet, out: Path) -> Foreign:
    """Captions of another program, which must be those of the split's photos; a copy goes to the other predictions."""
    texts = read_coco_results(each.path)
    check_predictions(texts, captions.references(), str(each.path))
    # JSON can hold half a surrogate pair, which a file can't: it becomes "?", as for the metrics.
    texts = {image_id: texts[image_id].encode(errors="replace").decode() for image_id in captions.image_ids}
    digest = hashlib.sha256(json.dumps([*texts.items()]).encode()).hexdigest()[:16]
    path = out / "predictions" / f"{slug(each.name)}-{digest}.json"
    if not path.is_file():
        write_coco_results(path, texts)
    return Foreign(each, texts, path)


def caption_split(
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
    mean = statistics.mean(length for entry in entries for length in entry.subject.lengths([*entry.texts.values()]))
    return min(round(mean), *(entry.subject.longest for entry in entries))


def _scores(texts: Mapping[int, str], scored: Scores, cider: tuple[float, float]) -> dict[str, Any]:
    """What a row says about its captions; `cider` is the interval."""
    return {
        "N": scored.images,
        "CIDEr": scored.values["CIDEr"],
        "cider_low": cider[0],
        "cider_high": cider[1],
        "Bleu_4": scored.values["Bleu_4"],
        "ROUGE_L": scored.values["ROUGE_L"],
        "distinct": len(set(texts.values())) / len(texts),
    }


def _facts(entry: Entry, length: int, times: tuple[float, float]) -> dict[str, Any]:
    """What a row says about its captioner; `times` are the milliseconds of encoder and decoder."""
    captioner, budget, of = entry.contender.captioner, entry.budget, entry.subject
    encoder_params, decoder_params = of.parameters
    return {
        "model": entry.contender.name,
        "encoder": of.architecture,
        "budget": budget,
        "tokens": of.token_count(budget),
        "trained_for": budget in captioner.budgets and entry.contender.family in (None, entry.contender.name),
        "encoder_gflops": of.encoder_gflops(budget),
        "decoder_gflops": of.decoder_gflops(budget, length, **entry.generation),
        "encoder_ms": times[0],
        "decoder_ms": times[1],
        "encoder_params": encoder_params,
        "decoder_params": decoder_params,
        "image_size": of.image_size,
        "family": entry.contender.family,
    }


def _foreign_facts(source: Predictions) -> dict[str, Any]:
    """What a row says of captions whose captioner did not run here: hardly anything."""
    measured = [f"{part}_{what}" for part in ("encoder", "decoder") for what in ("gflops", "ms", "params")]
    unknown = dict.fromkeys(["encoder", "budget", "tokens", *measured])
    return {**unknown, "model": source.name, "trained_for": True, "stated_gflops": source.gflops}


def _key(each: Contender, budget: int, captions: CaptionSet, generation: dict[str, Any]) -> str:
    """Digest of everything that predictions depend on."""
    parts = {
        **subject(each.captioner).identity(),
        "generation": each.captioner.generation(**generation),
        "budget": budget,
        "data": captions.fingerprint(),
        "transformers": version("transformers"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def slug(name: str) -> str:
    """A name as part of a file name: letters, digits and dashes."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
