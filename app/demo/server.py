"""Serves the page: on this machine only by default, with its own temporary folder, and with a clean shutdown."""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import gradio as gr

from vlcap.captioner import Captioner

from .page import build
from .pictures import CSS

MAX_FILE_SIZE = "20mb"
HERE = "127.0.0.1"
# SIGHUP, so that a closed terminal leaves no visitor's photo behind either; Windows has no SIGHUP.
ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
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
) -> gr.Blocks:
    """Serves the page in the background. Its address is `local_url` of the result; `close()` stops it.

    Args:
        captioners: Captioners to offer; the first is selected at the start.
        port: Port; None for the first free one from 7860.
        host: Address to listen on. Any other than this machine's own exposes the page to others.
        share: Whether to create a public link, through a server run by Gradio.

    Raises:
        OSError: The port is taken.
    """
    page = build(captioners)
    # Explicit arguments override Gradio's environment variables.
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        ssr_mode=False,
        mcp_server=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,  # unexpected errors are shown too
        max_file_size=MAX_FILE_SIZE,
        run_history=False,  # it would keep photos in the browser
        enable_monitoring=False,
        state_session_capacity=200,  # a session keeps a small photo and its maps
        footer_links=["api", "gradio"],
        i18n=gr.I18n(en={"common.upload": "Upload"}),  # a text for screen readers that Gradio lacks
        theme=THEME,
        css=CSS,
    )
    return page


def serve(
    captioners: Captioner | Sequence[Captioner],
    port: int | None = None,
    host: str = HERE,
    share: bool = False,
) -> None:
    """Prints the page's address and serves it until Ctrl-C, SIGTERM or SIGHUP. Arguments as for `start`."""
    if host not in (HERE, "localhost"):
        _warn(f"--host {host}: everyone who can reach this machine over the network can use the page")
    if share:
        _warn("--share: the page gets a public link, through a server run by Gradio; anyone with the link can use it")
    before = os.environ.get("GRADIO_TEMP_DIR")
    # All uploads and results lie in one folder, which is deleted at the end.
    folder = os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="vlcap-demo-")
    # An ignored signal stays ignored, as under nohup.
    handlers = {end: signal.signal(end, _interrupt) for end in ENDS if signal.getsignal(end) != signal.SIG_IGN}
    page = None
    try:
        page = start(captioners, port, host, share)
        print(f"The demo is at {page.share_url or page.local_url} (press Ctrl-C to stop it).", flush=True)
        while page.is_running:
            time.sleep(0.2)
    except KeyboardInterrupt:
        print()  # after the terminal's ^C
    finally:
        for end, handler in handlers.items():
            signal.signal(end, handler)
        if page is not None:
            page.close(verbose=False)  # also closes connections of open tabs
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop("GRADIO_TEMP_DIR") if before is None else os.environ.update(GRADIO_TEMP_DIR=before)


def _interrupt(*unused: Any) -> None:
    raise KeyboardInterrupt


def _warn(message: str) -> None:
    print(f"vlcap: warning: {message}", file=sys.stderr)
