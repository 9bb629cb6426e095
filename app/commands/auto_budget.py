"""`vlcap auto-budget`: the threshold of `--budget auto`, fitted on a validation split."""

import json
from pathlib import Path
from typing import Annotated

import typer

from app import loading
from app.options import Beams, Data, Limit, Model
from app.printing import say, track


def auto_budget(
    data: Data,
    model: Model = None,
    split: Annotated[str, typer.Option("--split", help="Split to fit on. Do not use the test split.")] = "val",
    beams: Beams = None,
    limit: Limit = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: budget_auto.json in the captioner folder.")
    ] = None,
) -> None:
    """Fit the threshold of --budget auto: the cheapest one whose CIDEr is at least that of the best single budget."""
    from vlcap.auto_budget import FILE
    from vlcap.data.captions import read_captions
    from vlcap.evaluation.auto import fit_rule
    from vlcap.files.results import OutputError, check_folder
    from vlcap.files.writing import replacing

    file = out or loading.folder_of(model) / FILE
    check_folder(file.parent)
    if file.exists():
        raise OutputError(f"{file}: exists: move it, or name another file with --out")
    captions = read_captions(data, split, limit=limit)
    captioner = loading.load(model, "pytorch")
    found = fit_rule(captioner, captions, None, track, **loading.search_settings(beams))
    with replacing(file) as opened:
        opened.write(json.dumps(found.rule.to_dict(), indent=2) + "\n")
    print(f"{'':>16}  CIDEr x 100   GFLOPs   (N = {len(captions)})")
    for side, (cider, gflops) in zip(found.rule.budgets, found.fixed, strict=True):
        print(f"{f'budget {side}':>16}  {100 * cider:11.2f}  {gflops:7.3f}")
    for point in found.points[:: -(-len(found.points) // 10)]:  # ten at most
        print(f"{f'auto, {point.threshold:.3f}':>16}  {100 * point.CIDEr:11.2f}  {point.gflops:7.3f}")
    best = found.rule
    say(
        f"{file}: threshold {best.threshold:.3f}, CIDEr x 100 {100 * best.fitted['CIDEr']:.2f}, "
        f"{best.fitted['gflops']:.3f} GFLOPs"
    )
