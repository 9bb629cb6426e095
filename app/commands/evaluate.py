"""`vlcap evaluate`, `score` and `baselines`: captions against references."""

from pathlib import Path
from typing import Annotated

import typer

from app import loading
from app.options import AsJson, Beams, BudgetOrAuto, Data, Engine, Int8, Limit, Metrics, Model, Split
from app.printing import print_json, print_scores, track


def evaluate(
    data: Data,
    model: Model = None,
    split: Split = "test",
    budget: BudgetOrAuto = None,
    beams: Beams = None,
    int8: Int8 = False,
    engine: Engine = "pytorch",
    metric: Metrics = None,
    out: Annotated[Path | None, typer.Option(help="Folder for predictions.json and metrics.json.")] = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Caption a split of a data set and score the captions against its references."""
    from vlcap.data.captions import read_captions
    from vlcap.evaluation.evaluate import WRITTEN
    from vlcap.evaluation.evaluate import evaluate as run
    from vlcap.evaluation.metrics import DEFAULT
    from vlcap.files.results import results
    from vlcap.processes import connect

    loading.parse_budget(budget)  # refuses what is no budget, now
    captions = read_captions(data, split, limit=limit)
    first = connect()
    with results(out if first else None, WRITTEN):
        captioner = loading.load_any(model, engine, int8=int8)
        report = run(
            captioner,
            captions,
            budget=loading.choose_budget(captioner, budget, model),
            metrics=metric or DEFAULT,
            out=out,
            track=lambda found: track(found, total=len(captions), what=f"captioning {captions.name} {split}"),
            **loading.search_settings(beams),
        )
    if first:
        print_scores(report, as_json)


def score(
    predictions: Annotated[Path, typer.Argument(help="COCO result file: [{image_id, caption}, ...].")],
    references: Annotated[Path, typer.Argument(help="COCO caption annotation file.")],
    metric: Metrics = None,
    as_json: AsJson = False,
) -> None:
    """Score any COCO result file against any COCO caption file."""
    from vlcap.data.captions import read_coco_captions, read_coco_results
    from vlcap.evaluation.metrics import DEFAULT
    from vlcap.evaluation.metrics import score as compute

    scores = compute(read_coco_results(predictions), read_coco_captions(references), metrics=metric or DEFAULT)
    print_scores(scores.to_dict(), as_json)


def baselines(
    data: Data,
    split: Split = "test",
    constant: Annotated[
        str | None,
        typer.Option(help="Caption given to every photo. Default: the most frequent one of the train split."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a human caption per photo, and one constant caption for all: what to compare a captioner's score with."""
    from vlcap.data.captions import CaptionDataError, read_captions
    from vlcap.evaluation.baselines import score_constant, score_human, usual_caption

    captions = read_captions(data, split)
    try:
        text = constant if constant is not None else usual_caption(read_captions(data, "train"))
    except CaptionDataError as error:
        raise CaptionDataError(
            f"{error}. Without --constant TEXT, it is the most frequent caption of the train split"
        ) from None
    found = {
        "a person's first caption, against the others": score_human(captions),
        f'always "{text}"': score_constant(captions, text),
    }
    if as_json:
        print_json({name: scores.to_dict() for name, scores in found.items()}, indent=2)
        return
    for name, scores in found.items():
        print(name)
        print_scores(scores.to_dict(), as_json)
