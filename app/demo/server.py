"""Serves the page: on this machine only by default, with its own temporary folder, and with a clean shutdown."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr

from vlcap.captioner import Captioner

from ..address import HERE, AddressError, check_address
from ..ending import ends_as_interrupts
from ..origin import is_loopback
from .guard import Guard
from .page import build
from .uploads import Uploads, own_folder

FOLDER = Path(__file__).parent
MAX_FILE_SIZE = "20mb"
SWEEP_EVERY = 60  # seconds
# The contrast of Gradio's own notes, and of white on its orange, is too low for WCAG.
NOTES = {"light": "*neutral_600", "dark": "*neutral_300"}
THEME = gr.themes.Default().set(
    block_info_text_color=NOTES["light"],
    block_info_text_color_dark=NOTES["dark"],
    body_text_color_subdued=NOTES["light"],
    body_text_color_subdued_dark=NOTES["dark"],
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
)


def start(
    captioners: Captioner | Sequence[Captioner],
    port: int | None = None,
    host: str = HERE,
    share: bool = False,
    folder: Path | None = None,
) -> gr.Blocks:
    """Serves the page in the background. Its address is `local_url` of the result; `close()` stops it.

    Args:
        captioners: Captioners to offer; the first is selected at the start.
        port: Port; None for the first free one from 7860.
        host: Address to listen on. Any other than this machine's own exposes the page to others.
        share: Whether to create a public link, through a server run by Gradio.
        folder: Folder of uploads and results that belongs to this page alone, so that old files in it are deleted; it
            must be Gradio's temporary folder. None for Gradio's own, which other pages may use too.

    Raises:
        AddressError: The port is taken, or the host is not an address of this machine.
    """
    check_address(host, port)
    page = build(captioners)
    try:
        _launch(page, port, host, share, folder)
    except OSError as error:  # taken in the meantime
        taken = f"port {port} is taken" if port else "the ports from 7860 on are taken"
        raise AddressError(f"{taken}: choose another with --port") from error
    return page


def _launch(page: gr.Blocks, port: int | None, host: str, share: bool, folder: Path | None) -> None:
    # Explicit arguments override Gradio's environment variables.
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        app_kwargs={"lifespan": _guarded(page, host, folder)},
        ssr_mode=False,
        mcp_server=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,  # unexpected errors are shown too
        max_file_size=MAX_FILE_SIZE,
        run_history=False,  # it would keep photos in the browser
        enable_monitoring=False,
        state_session_capacity=200,
        footer_links=["api", "gradio"],
        i18n=gr.I18n(en={"common.upload": "Upload"}),  # a text for screen readers that Gradio lacks
        theme=THEME,
        css=(FOLDER / "page.css").read_text(encoding="utf-8"),
        js=(FOLDER / "page.js").read_text(encoding="utf-8"),
    )


def _guarded(page: gr.Blocks, host: str, folder: Path | None) -> Callable[[Any], Any]:
    """What Gradio's app does from its start to its end: it stands behind a `Guard`, and old files are deleted."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        uploads = Uploads(folder or Path(app.uploaded_file_dir), own=folder is not None)
        uploads.kept = lambda: {path for block in page.blocks.values() for path in getattr(block, "keep_in_cache", ())}
        # Not as Gradio's middleware: its own would stand in front, and answer some requests by itself.
        app.middleware_stack = Guard(app.middleware_stack, host, uploads, lambda: _shared_host(page))
        sweeping = asyncio.create_task(_sweep(uploads))
        try:
            yield
        finally:
            sweeping.cancel()

    return lifespan


async def _sweep(uploads: Uploads) -> None:
    while uploads.own:
        await asyncio.sleep(SWEEP_EVERY)
        await asyncio.to_thread(uploads.sweep)


def _shared_host(page: gr.Blocks) -> str | None:
    return urlsplit(page.share_url or "").hostname


def serve(
    captioners: Captioner | Sequence[Captioner],
    port: int | None = None,
    host: str = HERE,
    share: bool = False,
) -> None:
    """Prints the page's address and serves it until Ctrl-C, SIGTERM or SIGHUP. Arguments as for `start`."""
    if not is_loopback(host):
        _warn(f"--host {host}: everyone who can reach this machine over the network can use the page")
    if share:
        _warn("--share: the page gets a public link, through a server run by Gradio; anyone with the link can use it")
    with own_folder() as folder:  # of all uploads and results
        _serve(captioners, port, host, share, folder)


def _serve(captioners: Captioner | Sequence[Captioner], port: int | None, host: str, share: bool, folder: Path) -> None:
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    page = None
    try:
        with ends_as_interrupts():
            page = start(captioners, port, host, share, folder)
            print(f"The demo is at {page.share_url or page.local_url} (press Ctrl-C to stop it).", flush=True)
            while page.is_running:
                time.sleep(0.2)
    except KeyboardInterrupt:
        print()  # after the terminal's ^C
    finally:
        if page is not None:
            page.close(verbose=False)  # also closes connections of open tabs
        os.environ.pop("GRADIO_TEMP_DIR") if before is None else os.environ.update(GRADIO_TEMP_DIR=before)


def _warn(message: str) -> None:
    print(f"vlcap: warning: {message}", file=sys.stderr)
