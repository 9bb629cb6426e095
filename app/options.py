"""Command-line options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Model = Annotated[
    str | None, typer.Option("--model", help="Captioner folder or hub id. Default: bundled, vlcap's own.")
]
Data = Annotated[
    str,
    typer.Option("--data", help="Folder of captioned photos, in any layout that `vlcap data` finds (docs/data.md)."),
]
Split = Annotated[str, typer.Option("--split", help="Split of the data set: train, val or test.")]
Limit = Annotated[int | None, typer.Option("--limit", min=2, help="Use only the first photos of the split.")]
Budget = Annotated[
    int | None,
    typer.Option("--budget", min=1, help="Side of the compressed grid: 5 means 25 tokens. Default: the model's own."),
]
BudgetOrAuto = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="Side of the compressed grid: 5 means 25 tokens. auto starts at the smallest and takes a larger one where "
        "the caption is unsure. Default: the model's own.",
    ),
]
Beams = Annotated[int | None, typer.Option("--beams", min=1, help="Number of beams; 1 is greedy search.")]
Int8 = Annotated[bool, typer.Option("--int8", help="8-bit weights, for CPUs that are fast at it; slightly less exact.")]
Engine = Annotated[
    str | None,
    typer.Option("--engine", help="onnx or pytorch. Default: $VLCAP_ENGINE, or onnx on a CPU and pytorch on a GPU."),
]
CaptionFile = Annotated[
    Path | None,
    typer.Option(
        "--out", help="File for the captions: .jsonl, .csv or .parquet; with --ray, a folder. Nothing is printed."
    ),
]
Ray = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Caption on a Ray cluster, or on a Ray that is started here, into the folder --out. Photos may also be "
        "parquet files, webdataset archives and URLs.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="HOST:PORT of the Ray cluster. Default: $RAY_ADDRESS, or a Ray that is started here."),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="With --ray: CPU threads of each captioner. Default: 2, or 4 with a GPU.")
]
ShardSize = Annotated[
    int | None,
    typer.Option(min=1, help="With --ray: photos per parquet file, rounded up to whole batches. Default: 1024."),
]
Sidecar = Annotated[
    str | None,
    typer.Option("--sidecar", help="Write a file beside each photo: .txt, .caption or .json. Nothing is printed."),
]
Existing = Annotated[
    Literal["skip", "overwrite", "append"] | None,
    typer.Option(
        "--existing",
        help="If there are captions already: skip those photos, overwrite what vlcap wrote, or append other captions. "
        "Default: skip with --sidecar; with --out, an existing file is refused.",
    ),
]
MinScore = Annotated[
    float | None,
    typer.Option("--min-score", help="Leave out captions with a lower score. Scores are at most 0."),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help="CIDEr, BLEU, ROUGE_L, METEOR or SPICE; repeat it for several. Default: the first three.",
    ),
]
PagePhotos = Annotated[
    int, typer.Option("--photos", min=0, help="Number of photos to show in the page, with every caption.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
TrainData = Annotated[list[str], typer.Option("--data", help="Folder of the data; repeat to join several.")]
Budgets = Annotated[
    str | None,
    typer.Option(
        "--budgets", help="Sides of the compressed grid to train for, such as 3,5,7; each step draws one of them."
    ),
]
RunFolder = Annotated[Path, typer.Option("--out", help="Folder of the run. The same command again resumes it.")]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="Name of a recipe, or path of a .yaml file.")]
Override = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, overrides the recipe; repeat to set several keys.")
]
Smoke = Annotated[
    bool,
    typer.Option(
        "--smoke", help="Shrink the recipe to seconds, in a new folder OUT/smoke-N, to check that the command works."
    ),
]
Corruption = Annotated[
    list[str] | None,
    typer.Option("--corruption", help="Only the corruption of this name; repeat for several. Default: all fifteen."),
]
Severity = Annotated[
    list[int] | None,
    typer.Option("--severity", min=1, max=5, help="Only this severity; repeat for several. Default: 1 to 5."),
]
CorruptionSize = Annotated[
    int, typer.Option("--corruption-size", min=32, help="Side of the photos in pixels when they are corrupted.")
]
