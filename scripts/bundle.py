"""Makes a trained captioner the bundled one: its weights in float16, and ONNX graphs that use the same weights.

    python scripts/bundle.py runs/self-critical-hybrid/captioner num_beams=4 repetition_penalty=1.4
    python scripts/bundle.py runs/self-critical-hybrid/captioner --out FOLDER num_beams=4

The settings are decoding settings by Hugging Face's names, chosen on the validation split.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
import yaml

from app.printing import say, track
from vlcap.captioner import BUNDLED, Captioner
from vlcap.export.graphs import export_graphs
from vlcap.publishing.folder import save_files


def bundle(
    captioner: Annotated[Path, typer.Argument(help="Captioner folder of a run.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Decoding settings, key=value.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write; default: the package's own.")] = BUNDLED,
) -> None:
    trained = Captioner.from_pretrained(captioner, engine="pytorch", device="cpu")
    changes = {key: yaml.safe_load(value) for key, value in (each.split("=", 1) for each in settings or [])}
    trained.model.generation_config.update(**changes)
    out.mkdir(parents=True, exist_ok=True)
    save_files(trained.model, trained.tokenizer, out, dtype=torch.float16)  # beside the card, which a person writes
    rounded = Captioner.from_pretrained(out, engine="pytorch", device="cpu")  # the graphs have the weights as shipped
    export_graphs(
        rounded.engine,
        out,
        with_safetensors=True,
        track=lambda names: track(names, total=len(rounded.budgets) + 1, what="exporting"),
    )
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(bundle)
