"""`vlcap evaluate`, `score` and `baselines`: captions against references, and a classifier's answers against labels."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app import loading
from app.options import AsJson, Beams, BudgetOrAuto, Data, Int8, Metrics, Model, Split
from app.parsing import parse_budget
from app.printing import print_json, print_scores, track


def evaluate(
    data: Data,
    model: Model = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            "--classifier",
            help="RUN/encoder of `vlcap train classifier`: evaluate this on labeled photos instead, top-1 and top-5.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Split of the data set. Default: test; with --classifier, val."),
    ] = None,
    budget: BudgetOrAuto = None,
    beams: Beams = None,
    int8: Int8 = False,
    engine: Annotated[
        str | None, typer.Option("--engine", help="onnx or pytorch, which runs the captioner. Default: pytorch.")
    ] = None,
    metric: Metrics = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for predictions.json and metrics.json; with --classifier, for confusions too."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=2,
            help="Number of photos to use: the first; with --classifier, evenly spaced ones.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Caption a split and score the captions against its references; or classify one, with --classifier."""
    if classifier is not None:
        given = {"--model": model, "--beams": beams, "--int8": int8, "--engine": engine, "--metric": metric}
        if unfit := [option for option, value in given.items() if value]:
            raise typer.BadParameter(f"{unfit[0]} is for captioners, not for --classifier")
        _evaluate_classifier(classifier, data, split or "val", budget, out, limit, as_json)
        return
    from vlcap.data.captions import read_captions
    from vlcap.evaluation.evaluate import WRITTEN
    from vlcap.evaluation.evaluate import evaluate as run
    from vlcap.evaluation.metrics import DEFAULT
    from vlcap.files.results import results
    from vlcap.processes import connect

    split = split or "test"
    parse_budget(budget)  # refuses what is no budget, now
    captions = read_captions(data, split, limit=limit)
    first = connect()
    with results(out if first else None, WRITTEN):
        captioner = loading.load_any(model, engine or "pytorch", int8=int8)
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


def _evaluate_classifier(
    classifier: str,
    data: str,
    split: str,
    budget: str | None,
    out: Path | None,
    limit: int | None,
    as_json: bool,
) -> None:
    from train.clips import check_kind
    from train.labels import join_labeled, limited, read_labeled
    from vlcap.evaluation.classifier import check_budgets, evaluate_classifier, load_classifier, written
    from vlcap.files.results import results
    from vlcap.processes import connect

    if budget == "auto":
        raise typer.BadParameter("--budget auto is for captioners, not for --classifier")
    side = parse_budget(budget)
    loading.hide_loading_bars()
    encoder = load_classifier(classifier)
    sides = check_budgets(encoder, None if side is None else [side])
    labeled = join_labeled([limited(read_labeled(data, split), limit)], encoder.config.classes)
    check_kind(encoder.config.architecture, encoder.frames, [labeled])
    first = connect()

    def shown(answers: Any) -> Any:
        return track(answers, total=len(labeled), what=f"classifying {Path(data).name} {split}")

    with results(out if first else None, written(sides)):
        report = evaluate_classifier(
            encoder, labeled, classifier, Path(data).name, split, sides, out if first else None, shown
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
