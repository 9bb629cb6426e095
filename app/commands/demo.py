"""`vlcap demo`: the web page. app/demo is what it opens."""

from typing import Annotated

import typer

from app import loading
from app.options import Engine


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="Captioner folder or hub id; repeat to offer several models. Default: the bundled one."
        ),
    ] = None,
    engine: Engine = None,
    port: Annotated[int | None, typer.Option(help="Port. Default: the first free one from 7860.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 exposes the page to your network.")
    ] = "127.0.0.1",
    share: Annotated[
        bool, typer.Option("--share", help="Create a public link, through a server run by Gradio.")
    ] = False,
) -> None:
    """Open a web page that captions photos and shows which part of a photo each word came from."""
    from app.demo import serve

    names: list[str | None] = [*model] if model else [None]
    serve([loading.load(name, engine) for name in names], port=port, host=host, share=share)
