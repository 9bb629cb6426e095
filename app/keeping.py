"""`vlcap caption --out` and `--sidecar`: captions into files, with a progress bar and a closing line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .printing import say

if TYPE_CHECKING:
    from rich.progress import Progress

    from vlcap.bulk.journal import Done
    from vlcap.bulk.sidecars import Sidecars
    from vlcap.bulk.table import Table
    from vlcap.bulk.work import Captioned, Wish


@dataclass
class Tally:
    """What became of the photos of a run: their numbers.

    Attributes:
        captioned: Photos that were captioned.
        unreadable: Photos that could not be read.
        left_out: Captions below --min-score.
        bare: Photos all of whose captions are below it.
        done: Photos that an interrupted run had captioned.
        skipped: Photos that had captions before.
    """

    captioned: int = 0
    unreadable: int = 0
    left_out: int = 0
    bare: int = 0
    done: int = 0
    skipped: int = 0

    def count(self, group: Iterable[Captioned]) -> None:
        """Counts a group of photos, and reports those that could not be read."""
        for each in group:
            if each.error is not None:
                say(str(each.error))
            self.unreadable += each.error is not None
            self.captioned += bool(each.captions)
            self.left_out += len(each.left_out)
            self.bare += bool(each.left_out) and not each.captions

    def count_done(self, done: Done) -> None:
        """Counts a photo of an interrupted run."""
        failed = any(row.problem for row in done.rows)
        bare = bool(done.left_out) and not any(row.caption for row in done.rows)
        self.unreadable += failed
        self.bare += bare
        self.left_out += done.left_out
        self.done += not failed and not bare

    def remarks(self, where: Path | str | None) -> list[str]:
        """Closing lines: one for captions in files, and one for captions that are left out."""
        lines = []
        if self.left_out:
            photos = f", all those of {self.bare} photos among them" if self.bare else ""
            lines.append(f"{self.left_out} captions below --min-score are left out{photos}")
        if where is not None:
            kind = f"beside each photo ({where})" if isinstance(where, str) else f"in {where}"
            before = f" ({self.done} of them by an interrupted run)" if self.done else ""
            captioned = f"{self.captioned + self.done} captioned{before}"
            lines.append(f"captions are {kind}: {captioned}, {self.skipped} skipped, {self.unreadable} unreadable")
        return lines


def keep(
    captioner: Any,
    place: Table | Sidecars,
    photos: Sequence[Path],
    wish: Wish,
    batch_size: int,
    weights: dict[str, Any],
) -> Tally | None:
    """Captions photos into files.

    Args:
        captioner: The captioner.
        place: Where the captions go.
        photos: The photos.
        wish: What is asked of the captions.
        batch_size: Photos per batch, of which a kill loses at most one.
        weights: What the captioner is, for the journal.

    Returns:
        What became of the photos of all processes; None in all processes but the first.
    """
    from vlcap import processes
    from vlcap.bulk.work import caption_groups, in_groups
    from vlcap.data.finding import is_video_name

    settings = settings_of(captioner, wish, weights)
    if any(is_video_name(photo.name) for photo in photos):
        settings["frames"] = wish.frames
    todo = place.begin(photos, settings)
    left: list[Sequence[Path]] = []
    done: list[Done] = []
    for group in in_groups(todo, batch_size, wish.frames):
        known = [place.done_before(photo) for photo in group]
        if None in known:  # a kill has cut the group
            left.append(group)
        else:
            done += [each for each in known if each]
    mine = [left[i] for i in processes.share(len(left))]
    tally = Tally()
    with progress_bar() as progress:
        task = progress.add_task("captioning", total=sum(map(len, mine)))
        for captioned in caption_groups(captioner, mine, wish):
            place.add(captioned)
            tally.count(captioned)
            progress.advance(task, len(captioned))
    tallies = processes.join([tally])
    place.finish()
    if not place.is_first:
        return None
    total = Tally(*map(sum, zip(*map(astuple, tallies), strict=True)))
    total.skipped = place.skipped
    for each in done:
        total.count_done(each)
    return total


def settings_of(captioner: Any, wish: Wish, weights: dict[str, Any]) -> dict[str, Any]:
    """What captions depend on, for a journal or a manifest. `weights` is what the captioner is."""
    from vlcap.auto_budget import AutoBudget

    asked = captioner.default_budget if wish.budget is None else wish.budget
    return {
        **weights,
        "budget": asked.to_dict() if isinstance(asked, AutoBudget) else asked,
        "generation": captioner.generation(**wish.generation),
        "count": wish.count,
        "min_score": wish.min_score,
        "prefix": wish.prefix,
        "suffix": wish.suffix,
    }


def progress_bar() -> Progress:
    """A progress bar on standard error, with the rate and the time left. Without a terminal it shows nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} photos/s" if task.speed else "")

    console = Console(file=sys.stderr)
    text = TextColumn("{task.description}")
    columns = (text, BarColumn(), MofNCompleteColumn(), Rate(), TimeLeft())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
