"""Serving the page: bound to this machine, its temporary files its own, ended cleanly."""

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
# A closed terminal, too, must leave no visitor's photo behind; Windows has no SIGHUP.
ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
# Gradio's own notes are too pale to be read by everyone, and so is white on its orange.
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
    """Serves the page in the background; `close()` of what it returns ends that, `local_url` is where it is.

    Args:
        captioners: Who writes the captions; the first is chosen at first.
        port: None for the first free one from 7860.
        host: Address to listen at; another one than this machine's own opens the page to others.
        share: Whether to open it to everyone by a public link of Gradio's.

    Raises:
        OSError: The port is taken.
    """
    page = build(captioners)
    # What is said explicitly here can't be changed by Gradio's environment variables.
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        ssr_mode=False,
        mcp_server=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,  # an error that nobody foresaw is said too
        max_file_size=MAX_FILE_SIZE,
        run_history=False,  # it would keep the photos in the browser
        enable_monitoring=False,
        state_session_capacity=200,  # a session keeps a small photo and its maps
        footer_links=["api", "gradio"],
        i18n=gr.I18n(en={"common.upload": "Upload"}),  # Gradio forgot what a screen reader says of this one
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
    """Serves the page until Ctrl-C, SIGTERM or SIGHUP, after printing its address; arguments as for `start`."""
    if host not in (HERE, "localhost"):
        _warn(f"--host {host}: everyone who reaches this machine over the network can use the page")
    if share:
        _warn("--share: a public link through a server of Gradio's; everyone who has it can use the page")
    before = os.environ.get("GRADIO_TEMP_DIR")
    # All that visitors upload and the page makes lies in one folder, which nothing outlives.
    folder = os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="vlcap-demo-")
    # What is ignored stays so: nohup's.
    handlers = {end: signal.signal(end, _interrupt) for end in ENDS if signal.getsignal(end) != signal.SIG_IGN}
    page = None
    try:
        page = start(captioners, port, host, share)
        print(f"The demo is at {page.share_url or page.local_url} - Ctrl-C ends it.", flush=True)
        while page.is_running:
            time.sleep(0.2)
    except KeyboardInterrupt:
        print()  # after the terminal's ^C
    finally:
        for end, handler in handlers.items():
            signal.signal(end, handler)
        if page is not None:
            page.close(verbose=False)  # ends open tabs' connections too
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop("GRADIO_TEMP_DIR") if before is None else os.environ.update(GRADIO_TEMP_DIR=before)


def _interrupt(*unused: Any) -> None:
    raise KeyboardInterrupt


def _warn(message: str) -> None:
    print(f"vlcap: warning: {message}", file=sys.stderr)
