"""Finds the image files in a person's files and folders.

`vlcap caption` and the readers of class folders use it, through `find_images`.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .names import one_line

# Suffixes of image files in a folder or an archive: all those of the formats that images.py opens, and of HEIF.
SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".png",
    ".apng",
    ".webp",
    ".gif",
    ".bmp",
    ".dib",
    ".tif",
    ".tiff",
    ".avif",
    ".avifs",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".pfm",
    ".jp2",
    ".j2k",
    ".j2c",
    ".jpc",
    ".jpf",
    ".jpx",
    ".heic",
    ".heics",
    ".heif",
    ".heifs",
    ".hif",
}
# Suffixes of video files in a folder. Not .ts, which is a program more often.
VIDEO_SUFFIXES = {
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".m2ts",
    ".mts",
    ".3gp",
    ".3g2",
    ".wmv",
    ".asf",
    ".flv",
    ".ogv",
}
# Suffixes of pictures that are not read. If a folder has any, not all of its pictures were captioned.
UNREAD_SUFFIXES = {
    ".jxl",
    ".svg",
    ".psd",
    ".eps",
    ".ico",
    ".tga",
    ".cr2",
    ".cr3",
    ".crw",
    ".nef",
    ".nrw",
    ".arw",
    ".srf",
    ".sr2",
    ".dng",
    ".orf",
    ".rw2",
    ".raf",
    ".pef",
    ".srw",
    ".x3f",
    ".raw",
}


@dataclass(frozen=True)
class Found:
    """Result of `find_images`.

    Attributes:
        images: Image files in the order given, each once.
        others: Other files in the folders, judged by their suffix. They are skipped.
        problems: One line for each folder that cannot be read.
    """

    images: list[Path]
    others: list[Path]
    problems: list[str]

    @property
    def complete(self) -> bool:
        """Whether every picture is among the images."""
        return not self.problems and not any(path.suffix.lower() in UNREAD_SUFFIXES for path in self.others)

    def remarks(self) -> list[str]:
        """One line for each folder that cannot be read, and one for the skipped files."""
        return [*self.problems, *([describe_skipped(self.others)] if self.others else [])]


def find_images(paths: Iterable[str | os.PathLike], videos: bool = False) -> Found:
    """Finds the image files in files and folders; the video files too, if `videos`.

    A folder stands for all files in it and below it that have the suffix of an image, in the order of their paths.
    Hidden files and folders are skipped. A link to a folder is followed once, unless it leads to a folder above it. A
    file that is named itself is taken whatever its suffix. A path that does not exist and a folder without images are
    among the images as they are: `load_image` then says what is wrong with them.
    """

    def wanted(file: Path) -> bool:
        return is_image_name(file.name) or (videos and is_video_name(file.name))

    images: dict[str, Path] = {}
    others: dict[str, Path] = {}
    problems: list[str] = []
    for path in map(Path, paths):
        known = len(problems)
        below = files_below(path, problems) if os.path.isdir(path) else []
        pictures = [file for file in below if wanted(file)]
        others |= {os.path.abspath(file): file for file in below if not wanted(file)}
        for image in pictures or ([path] if len(problems) == known else []):
            images.setdefault(os.path.abspath(image), image)
    return Found(list(images.values()), [path for key, path in others.items() if key not in images], problems)


def without(found: Found, files: Iterable[Path]) -> Found:
    """What was found, without these among the skipped files: captions that vlcap itself writes."""
    known = {os.path.abspath(file) for file in files}
    return replace(found, others=[path for path in found.others if os.path.abspath(path) not in known])


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def is_video_name(name: str) -> bool:
    """Whether a file name has the suffix of a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def without_videos(found: Found) -> tuple[Found, list[str]]:
    """What was found, without the videos among the skipped files, and a line about these videos if there are any."""
    skipped = [path for path in found.others if is_video_name(path.name)]
    if not skipped:
        return found, []
    count = "1 video" if len(skipped) == 1 else f"{len(skipped)} videos"
    line = f"skipped {count}, for which the package av is needed: pip install 'vlcap[video]' (first: {{}})"
    return without(found, skipped), [line.format(one_line(os.fspath(skipped[0])))]


def describe_skipped(files: Sequence[str | os.PathLike]) -> str:
    """One line about skipped files: their number by suffix, and the first of them."""
    suffixes = Counter(os.path.splitext(file)[1].lower() or "without a suffix" for file in files)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(8))
    more = f" and {len(suffixes) - 8} other kinds" if len(suffixes) > 8 else ""
    count = "1 file that is not an image" if len(files) == 1 else f"{len(files)} files that are not images"
    return f"skipped {count} of a known format: {one_line(kinds)}{more} (first: {one_line(os.fspath(files[0]))})"


def files_below(folder: Path, problems: list[str]) -> list[Path]:
    """Files in and below a folder that are not hidden, sorted. Each unreadable folder adds a line to `problems`."""
    files: list[Path] = []
    top, listed = os.path.realpath(folder), set()  # real paths
    waiting = [str(folder)]  # links come after the folders themselves, so that a photo keeps its own path

    def refused(error: OSError) -> None:
        problems.append(f"{one_line(error.filename)}: this folder cannot be read ({error.strerror})")

    while waiting:
        for parent, folders, names in os.walk(waiting.pop(0), onerror=refused):
            real = os.path.realpath(parent)
            if real in listed:
                folders.clear()
                continue
            listed.add(real)
            files += [Path(parent, name) for name in names if not name.startswith(".")]
            seen = [name for name in folders if not name.startswith(".")]
            folders[:] = [name for name in seen if not os.path.islink(os.path.join(parent, name))]
            links = sorted(os.path.join(parent, name) for name in seen if name not in folders)
            waiting += [link for link in links if not _is_above(os.path.realpath(link), real, top)]
    return sorted(files)


def _is_above(target: str, *folders: str) -> bool:
    return any(Path(folder).is_relative_to(target) for folder in folders)
