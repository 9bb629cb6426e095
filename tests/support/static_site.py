"""What the tests of the static page share: a web server that counts what it sends, and photos of many kinds."""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image

from tests.support.drawings import draw
from tests.support.example_captions import candidates

RUNTIME = "VLCAP_WEB_RUNTIME"  # environment variable: folder of onnxruntime-web, which `make test` fetches
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


def runtime() -> Path | None:
    """Folder of onnxruntime-web: $VLCAP_WEB_RUNTIME, or where `make test` has put it; None if it does not exist."""
    folder = Path(os.environ.get(RUNTIME) or Path(sys.prefix, "onnxruntime-web"))
    return folder if folder.is_dir() else None


class Server(ThreadingHTTPServer):
    """Serves a folder on this machine.

    Attributes:
        sent: Bytes of the files that were sent.
        asked: Paths that were asked for.
    """

    daemon_threads = True

    def __init__(self, folder: Path, headers: dict[str, str]):
        self.headers, self.sent = headers, 0
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}/"


class _Handler(SimpleHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: object) -> None:
        self.server.asked.append(self.path)

    def end_headers(self) -> None:
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        super().end_headers()

    def copyfile(self, source, outputfile) -> None:
        self.server.sent += os.fstat(source.fileno()).st_size
        with contextlib.suppress(ConnectionError):  # a tab that was closed
            super().copyfile(source, outputfile)


@contextlib.contextmanager
def served(folder: Path, headers: dict[str, str] | None = None) -> Iterator[Server]:
    server = Server(folder, headers or {})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def photos_of_many_kinds(folder: Path, real_data: Path | None) -> list[Path]:
    """12 photos in files of many kinds: of COCO where it is at hand, else drawings and those of the dependencies."""
    sources = [Image.open(path).convert("RGB") for path in candidates().values()]
    cat, man, tower, *_ = sources
    clear = cat.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(cat.size))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    large = tower.resize((tower.width * 2600 // tower.height, 2600), Image.Resampling.LANCZOS)
    made = {
        "turned.jpg": lambda path: man.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95),
        "clear.png": lambda path: clear.save(path),
        "grey.jpg": lambda path: cat.convert("L").save(path),
        "few_colors.gif": lambda path: tower.resize((300, 400)).save(path),
        "large.jpg": lambda path: large.save(path),  # which Pillow decodes smaller
        "small.png": lambda path: cat.resize((60, 44)).save(path),
        "tall.webp": lambda path: tower.resize((150, 600)).save(path, lossless=True),
        "plain.bmp": lambda path: man.save(path),
    }
    for name, save in made.items():
        save(folder / name)
    paths = [folder / name for name in made]
    table = real_data / "coco-sample-224" / "train.parquet" if real_data else None
    if table and table.is_file():
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(table).slice(0, 12 - len(made)).to_pylist()
        [column] = [name for name, value in rows[0].items() if isinstance(value, dict) and "bytes" in value]
        contents = [row[column]["bytes"] for row in rows]
    else:
        contents = []
    for number in range(12 - len(made)):
        path = folder / f"{number}.jpg"
        if contents:
            path.write_bytes(contents[number])
        else:
            [*sources, *map(draw, range(12))][number].save(path)
        paths.append(path)
    return paths
