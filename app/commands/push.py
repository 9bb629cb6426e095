"""`vlcap push`: a captioner to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from app import loading


def push(
    repository: Annotated[str, typer.Argument(help="ID on the hub, as NAME/captioner. Made if it does not exist.")],
    model: Annotated[str, typer.Option("--model", help="Captioner folder, such as RUN/captioner.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private. Default: the owner's setting on the hub.")
    ] = False,
    license: Annotated[
        str | None, typer.Option("--license", help="License of the weights, by the hub's names: apache-2.0, other ...")
    ] = None,
    metrics: Annotated[
        list[Path] | None,
        typer.Option("--metrics", help="metrics.json of `vlcap evaluate`, for the model card. Repeat for several."),
    ] = None,
) -> None:
    """Upload a captioner to the Hugging Face hub, with a model card. Prints the address of the commit."""
    captioner = loading.load(model, "pytorch")
    print(captioner.push_to_hub(repository, private=private or None, license=license, metrics=metrics or []))
