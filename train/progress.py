"""Monitoring a run: a progress bar, log.jsonl, TensorBoard files, curves.png."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vlcap.files.writing import replacing


class Log:
    """Records a run's figures: log.jsonl for programs, TensorBoard for browsers, a bar and lines on standard error.

    Args:
        out: Folder of the run.
        start: Step that the run resumes from; later entries of the log are dropped, because these steps run again.
        steps: Length of the run.
        batch_size: Images per step, to compute the rate.
        enabled: Whether this process writes and prints.
    """

    EVERY = 20  # steps between entries of the loss

    def __init__(self, out: Path, start: int, steps: int, batch_size: int, enabled: bool = True):
        self.out, self.batch_size, self.enabled = out, batch_size, enabled
        self.path = out / "log.jsonl"
        self.console = Console(file=sys.stderr)
        self.losses: list[torch.Tensor] = []
        self.since = time.perf_counter()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not enabled,
        )
        self.task = self.bar.add_task("loss -", total=steps, completed=start, rate="")
        self.board: Any = None  # a SummaryWriter, if enabled
        if enabled:
            from torch.utils.tensorboard import SummaryWriter

            self._forget_after(start)
            self.board = SummaryWriter(out / "tensorboard", purge_step=start + 1)

    def __enter__(self) -> "Log":
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()
        if self.board:
            self.board.close()

    def advance(self, loss: torch.Tensor) -> None:
        self.losses.append(loss.detach())  # read later: reading it now would stall a GPU
        self.bar.advance(self.task)

    def mean_loss(self) -> torch.Tensor:
        """Mean of the losses since the last call, a scalar."""
        value = torch.stack(self.losses).float().mean()
        rate = len(self.losses) * self.batch_size / (time.perf_counter() - self.since)
        self.bar.update(self.task, rate=f"{rate:.0f} images/s" if rate > 9 else f"{rate:.2g} images/s")
        self.losses, self.since = [], time.perf_counter()
        return value

    def note(self, step: int, **figures: float) -> None:
        """Writes a step's figures to the log and to TensorBoard."""
        if not self.enabled:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), "step": step, **figures}) + "\n")
        for name, value in figures.items():
            self.board.add_scalar(name.replace("@", "/budget "), value, step)
        if "loss" in figures:
            self.bar.update(self.task, description=f"loss {figures['loss']:.4f}")

    def say(self, message: str, style: str | None = None) -> None:
        if self.enabled:
            self.console.print(message, style=style, highlight=False, markup=False, soft_wrap=True)

    def show(self, step: int, figures: dict[str, float], samples: list[str]) -> None:
        """Writes and prints an evaluation."""
        self.note(step, **figures)
        self.say(f"step {step}: " + "  ".join(f"{name} {value:.4f}" for name, value in figures.items()))
        for sample in samples:
            self.say(f"    {sample}")
        if self.enabled:
            if samples:
                self.board.add_text("samples", "\n\n".join(samples), step)
            draw_curves(self.path, self.out / "curves.png")
        self.since = time.perf_counter()  # the rate leaves out the evaluation

    def _forget_after(self, start: int) -> None:
        if self.path.exists():
            lines = [line for line in read_log(self.path) if line["step"] <= start]
            with replacing(self.path) as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)


def read_log(path: Path) -> list[dict[str, float]]:
    """The entries of a log.jsonl; incomplete lines are skipped."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def read_evaluations(path: Path) -> dict[int, dict[str, float]]:
    """The figures of each evaluation in a log.jsonl, by step; empty if there is no log yet."""
    lines = read_log(path) if path.exists() else []
    return {
        int(line["step"]): {name: value for name, value in line.items() if name not in ("time", "step")}
        for line in lines
        if "lr" not in line
    }


def draw_curves(log: Path, image: Path) -> None:
    """Plots a run's log over steps: losses on the left, scores (accuracy, CIDEr ...) on the right."""
    from matplotlib.figure import Figure

    series: dict[str, tuple[list, list]] = {}
    for line in read_log(log):
        for name, value in line.items():
            if name not in ("time", "step", "lr") and math.isfinite(value):
                steps, values = series.setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(value)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(nrows=1, ncols=2)
    for name, (steps, values) in series.items():
        axes = left if "loss" in name else right
        axes.plot(steps, values, label=name, marker="." if len(steps) < 40 else "")
    for axes, title in ((left, "loss"), (right, "validation")):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(image, dpi=120)
