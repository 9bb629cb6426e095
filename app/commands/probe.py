"""`vlcap probe`: what frozen encoders know, and what corruptions of a photo do to them."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from app import loading
from app.options import Corruption, CorruptionSize, Severity
from app.parsing import choose_corruptions, parse_named
from app.printing import say, track


def probe(
    data: Annotated[
        str, typer.Option("--data", help="Labeled photos with a train split, as for `vlcap train classifier`.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the results: tables as CSV and JSON, plots as SVG.")],
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            help="RUN/encoder, a captioner folder, timm:NAME or timm:FOLDER; NAME=... gives it a name. Repeat for "
            "several. Default: the bundled captioner's encoder.",
        ),
    ] = None,
    budget: Annotated[
        list[int] | None,
        typer.Option(
            "--budget",
            min=1,
            help="Side of the compressed grid; repeat for several. Default: those each encoder was trained for. An "
            "encoder without a choice keeps its own.",
        ),
    ] = None,
    reduce: Annotated[
        Literal["pool", "tome", "evit"] | None,
        typer.Option("--reduce", help="How the tokens of timm: encoders become few, at each --budget."),
    ] = None,
    pooled: Annotated[
        Literal["tokens", "heads"],
        typer.Option(
            "--pooled", help="What is probed: the mean of the tokens that a decoder reads, or what the heads read."
        ),
    ] = "tokens",
    split: Annotated[str, typer.Option("--split", help="Split that is tested. Shots come from train.")] = "val",
    shots: Annotated[
        list[int] | None,
        typer.Option("--shots", min=1, help="Photos of each class; repeat for several. Default: 1, 5, 10 and 25."),
    ] = None,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Number of random draws of these photos.")] = 5,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Test with ImageNet-C's fifteen corruptions too.")
    ] = False,
    corruption: Corruption = None,
    severity: Severity = None,
    size: CorruptionSize = 224,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            help="Name of the encoder that mean corruption errors refer to. Default: AlexNet for 1,000 classes and "
            "all corruptions, otherwise the first.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=2, help="Number of tested photos, evenly spaced over the split. Default: all."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of draws and corruptions.")] = 0,
) -> None:
    """Probe frozen encoders: few-shot transfer, and robustness to corruptions with --corruptions."""
    from vlcap.files.results import results
    from vlcap.probing.few_shot import SHOTS, few_shot
    from vlcap.probing.report import CORRUPTED, FEW_SHOT, few_shot_table, write_few_shot
    from vlcap.probing.robustness import check_reference

    names, severities = choose_corruptions(corruptions, corruption, severity, size)
    if reference and not corruptions:
        raise typer.BadParameter("--reference goes with --corruptions")
    train, test = _read(data, split, limit)
    with results(out, (*FEW_SHOT, *(CORRUPTED if corruptions else ()))):
        subjects = _subjects(encoder, budget, reduce, pooled, test)
        check_reference(reference, [each.name for each in subjects])
        found = few_shot(subjects, train, test, shots or SHOTS, draws, seed, track)
        setting = _setting(subjects, data, split, test, draws=draws, pooled=pooled, seed=seed)
        write_few_shot(found.rows, setting, out)
        _print(few_shot_table(found.rows, setting))
        if corruptions:
            _corrupt(subjects, test, found, names, severities, size, reference, setting, out)
    say(f"see {out}")


def _corrupt(
    subjects: Any,
    test: Any,
    found: Any,
    names: tuple[str, ...],
    severities: tuple[int, ...],
    size: int,
    reference: str | None,
    setting: dict[str, Any],
    out: Path,
) -> None:
    from vlcap.bench.machine import versions
    from vlcap.probing.report import corruption_table, write_corruptions
    from vlcap.probing.robustness import corrupted

    setting = {
        **setting,
        "corruptions": names,
        "severities": severities,
        "corruption_size": size,
        "versions": setting["versions"] | versions(["imagecorruptions-imaug"]),
    }
    done = corrupted(subjects, test, found.probes, names, severities, size, reference, setting["seed"], track)
    write_corruptions(done, setting, out)
    _print(corruption_table(done, setting))


def _read(data: str, split: str, limit: int | None) -> tuple[Any, Any]:
    """The train split, and the split that is tested with the same class numbers."""
    from train.clips import check_kind
    from train.labels import join_labeled, limited, read_labeled

    train = read_labeled(data, "train")
    check_kind("vlcap probe", None, [train])
    return train, join_labeled([limited(read_labeled(data, split), limit)], train.classes)


def _subjects(encoders: list[str] | None, budgets: list[int] | None, reduce: Any, pooled: Any, test: Any) -> list[Any]:
    """The encoders, each with its own numbers of the data's classes, if its heads know all of them."""
    from dataclasses import replace

    from train.labels import LabelError, match_classes
    from vlcap.probing.robustness import check_names
    from vlcap.probing.subject import load_subject

    loading.hide_loading_bars()
    named = [parse_named("--encoder", each) for each in encoders or ["bundled"]]
    check_names([name for name, _ in named])
    subjects = [load_subject(source, name, budgets, reduce, pooled) for name, source in named]
    found = []
    for subject in subjects:
        own = subject.encoder.config.classes
        try:
            every = replace(test, targets=test.targets.new_tensor(range(len(test.classes))))  # each class once
            numbers = match_classes(every, own, subject.name).targets.tolist() if own else None
        except LabelError:
            numbers = None
        found.append(replace(subject, numbers=None if numbers is None else tuple(numbers)))
    return found


def _setting(subjects: Any, data: str, split: str, test: Any, **further: Any) -> dict[str, Any]:
    """What the results depend on."""
    from vlcap.bench.machine import versions

    return {
        "data": Path(data).name,
        "split": split,
        "N": len(test),
        "classes": len(test.classes),
        "encoders": {each.name: each.encoder.config.architecture for each in subjects},
        **further,
        "versions": versions(["vlcap", "torch", "timm", "numpy"]),
    }


def _print(table: Any) -> None:
    from rich.console import Console

    Console().print(table)
