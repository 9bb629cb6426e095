"""Photos and captions as lists name them: what the readers of tables, sidecar files and archives have in common.

A reader fills a `Listing`: one entry per photo, and what is wrong, by file and line. `Listed` makes caption sets of it:
it finds the splits, the ids and the photos.
"""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from .building import matching_split, numbers_of, usable
from .caption_files import filled
from .caption_set import CaptionDataError, CaptionSet
from .names import listed, one_line, shown
from .photo_paths import locate, path_parts
from .photo_sources import ArchivedPhoto, content_of, size_of
from .splits import KEY_BYTES, SHARES, share


@dataclass(frozen=True)
class Entry:
    """A photo and its captions.

    Attributes:
        name: Name of the photo, as the file gives it.
        captions: Its captions, in the order of the file.
        split: Name of its split; None if nothing says it.
        image_id: Its id; None if it has none.
        photo: Place of the photo, if the reader knows it: a path relative to the folder, or a part of an archive.
    """

    name: str
    captions: list[str]
    split: str | None = None
    image_id: int | None = None
    photo: str | ArchivedPhoto | None = None


@dataclass
class Listing:
    """What a reader found in a folder.

    Attributes:
        files: The files with the captions.
        places: Folders that may hold the photos, relative to the folder.
        entries: One entry per photo, by the parts of its name.
        problems: Faults by which the files are refused, one line each, with the file and the line.
        remarks: What is left out or repaired, one line each.
    """

    files: list[Path]
    places: list[str] = field(default_factory=lambda: [""])
    entries: dict[tuple[str, ...], Entry] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, entry: Entry, where: str) -> None:
        """Adds a photo, or further captions of one that is there. `where` is the file and the line, for messages."""
        key = path_parts(entry.name)
        if not key:
            self.problems.append(f"{where}: no name of a photo")
            return
        known = self.entries.get(key)
        if known is None:
            self.entries[key] = entry
        elif known.split != entry.split:
            both = " and ".join(shown(split or "none") for split in (known.split, entry.split))
            self.problems.append(f"{where}: {shown(entry.name)} is in the splits {both}")
        elif known.image_id != entry.image_id:
            self.problems.append(f"{where}: {shown(entry.name)} has the ids {known.image_id} and {entry.image_id}")
        else:
            known.captions.extend(entry.captions)


@dataclass(frozen=True, eq=False)
class Listed:
    """A layout whose reader fills a listing.

    Args:
        kind: Name of the layout, for a person.
        folder: The folder.
        files: The files with the captions; the folder itself if they are too many to name.
        load: Function that reads them.
        strict: Whether `read` refuses files with problems; if not, it reads what has none.
        narrow: Function that gives the layout of a split's files alone, if files are of one split each.
    """

    kind: str
    folder: Path
    files: Sequence[Path]
    load: Callable[[], Listing]
    strict: bool = True
    narrow: Callable[[str], "Listed"] | None = None

    @cached_property
    def listing(self) -> Listing:
        found = self.load()
        entries = list(found.entries.values())
        owners: dict[tuple[str | None, int], str] = {}
        for entry in entries:
            if entry.image_id is not None:
                first = owners.setdefault((entry.split, entry.image_id), entry.name)
                if first != entry.name:
                    both = f"{shown(first)} and {shown(entry.name)}"
                    found.problems.append(f"{self.where}: image_id {entry.image_id} is that of {both}")
        unsaid = [entry for entry in entries if entry.split is None]
        if 0 < len(unsaid) < len(entries):
            told = listed(sorted({entry.split for entry in entries if entry.split is not None}))
            found.problems.append(
                f"{self.where}: {len(unsaid)} of {len(entries)} photos belong to no split, the first is "
                f"{shown(unsaid[0].name)}; the others are in {told}: move them into the folders of their splits"
            )
        return found

    @property
    def where(self) -> str:
        """The file, or the folder if the captions are in several."""
        return str(self.files[0] if len(self.files) == 1 else self.folder)

    @cached_property
    def parts(self) -> dict[str, list[Entry]]:
        """The photos by split."""
        entries = list(self.listing.entries.values())
        parts: dict[str, list[Entry]] = {}
        if self.drawn:
            entries = self._draw(entries)
        for entry in entries:
            parts.setdefault(entry.split or "no split", []).append(entry)
        return parts

    def _draw(self, entries: list[Entry]) -> list[Entry]:
        """The entries with splits chosen by the content of their photos. Those without captions are left to train."""
        located = self.located([entry for entry in entries if filled(entry.captions)])
        splits = share([_key(self.source(entry)) for entry in located])
        chosen = {entry.name: replace(entry, split=split) for entry, split in zip(located, splits, strict=True)}
        return [chosen.get(entry.name) or replace(entry, split="train") for entry in entries]

    @property
    def drawn(self) -> bool:
        """Whether nothing names a split."""
        return bool(self.listing.entries) and all(entry.split is None for entry in self.listing.entries.values())

    def located(self, entries: list[Entry]) -> list[Entry]:
        """The entries with the places of their photos."""
        names = [entry.name for entry in entries if entry.photo is None]
        if not names:
            return entries
        known = {entry.name for entry in self.listing.entries.values()}
        places = iter(locate(self.folder, names, self.listing.places, known))
        return [replace(entry, photo=next(places)) if entry.photo is None else entry for entry in entries]

    def splits(self) -> list[str]:
        self._refuse()
        return list(self.parts)

    def read(self, split: str, limit: int | None) -> CaptionSet:
        if self.narrow:
            return self.narrow(split).read(split, limit)
        self._refuse()
        for remark in self.remarks():
            warnings.warn(remark, stacklevel=3)
        part = self.parts[matching_split(self.parts, split, self.folder)]
        ids = [entry.image_id for entry in part if entry.image_id is not None]
        ids = ids if len(ids) == len(part) else numbers_of([entry.name for entry in part])
        photos = [(image_id, entry.captions, entry) for image_id, entry in zip(ids, part, strict=True)]
        kept, dropped = usable(photos, f"{self.where}, {split}", limit)
        entries = self.located([entry for _, _, entry in kept])
        return CaptionSet(
            name=one_line(self.folder.name),
            split=split,
            image_ids=[image_id for image_id, _, _ in kept],
            captions=[captions for _, captions, _ in kept],
            files=[entry.photo if isinstance(entry.photo, str) else entry.name for entry in entries],
            sources=[self.source(entry) for entry in entries],
            dropped=dropped,
        )

    def source(self, entry: Entry) -> str | ArchivedPhoto:
        """Place of the photo of an entry that was located."""
        assert entry.photo is not None
        return os.path.join(self.folder, entry.photo) if isinstance(entry.photo, str) else entry.photo

    def problems(self) -> list[str]:
        return self.listing.problems

    def remarks(self) -> list[str]:
        remarks = list(self.listing.remarks)
        if self.drawn:
            sizes = Counter({split: len(part) for split, part in self.parts.items()})
            shares = {"train": 1 - sum(SHARES.values()), **SHARES}
            told = ", ".join(f"{split} {sizes[split]} ({part:.0%})" for split, part in shares.items())
            remarks.append(f"{self.folder}: no file or folder names a split, so photos are drawn by content: {told}")
        return remarks

    def _refuse(self) -> None:
        if self.strict and (problems := self.listing.problems):
            more = f" (and {len(problems) - 1} more problems: `vlcap data` lists them)" if len(problems) > 1 else ""
            raise CaptionDataError(f"{problems[0]}{more}")
        if not self.listing.entries:
            raise CaptionDataError(f"{self.where}: no captions in it")


def _key(photo: str | ArchivedPhoto) -> bytes:
    """What the split of a photo depends on, if nothing names it."""
    return f"{size_of(photo)} ".encode() + content_of(photo, most=KEY_BYTES)
