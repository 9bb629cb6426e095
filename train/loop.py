"""The one training loop. A `Task` says what is trained, on what and how it is judged; `fit` does the rest.

Distribution and mixed precision are accelerate's, optimiser, schedule and weight averaging are timm's.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn as nn
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch.utils.data import DataLoader, Dataset

from .checkpoint import load_checkpoint, save_checkpoint
from .recipe import Recipe
from .sampling import SeededDataset, StepBatches, draw_budget, seed_all


class TrainingError(RuntimeError):
    """A run that can't go on: why, and where what it has reached lies."""


class Task(Protocol):
    """What a trainer adds to the loop."""

    model: nn.Module
    train_set: Dataset

    def collate(self, items: list) -> Any:
        """A batch of the training set's items."""

    def loss(self, model: nn.Module, batch: Any, budget: int | None) -> torch.Tensor:
        """The loss of one batch, a scalar; under autocast."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Figures of merit on the validation split."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """What the run is for, in the form that others load."""


def fit(make_task: Callable[[], Task], recipe: Recipe, out: Path) -> dict[str, float]:
    """Trains a task's model as the recipe says; goes on from the newest checkpoint in `out` if there is one.

    Writes into `out`: recipe.yaml, log.jsonl, checkpoints/, and what `task.save` writes at the end.

    Args:
        make_task: Reads the data and makes the model; what it writes on the way, the first process writes for all.
        recipe: The settings.
        out: Folder of the run.

    Returns:
        The last evaluation's figures.

    Raises:
        TrainingError: `out` holds a run of another recipe, or the loss is not finite.
    """
    # Without cpu=True accelerate takes processes on a machine without a GPU for so many single runs.
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.precision == "bfloat16" else "no", cpu=not torch.cuda.is_available())
    device, main = accelerator.device, accelerator.is_main_process
    if main:
        _claim(out, recipe)
    seed_all(recipe.seed)  # the weights that a run starts from are its own too
    with accelerator.main_process_first():
        task = make_task()

    images = len(task.train_set)
    steps = recipe.total_steps(images)
    task.model.to(device)
    optimizer = create_optimizer_v2(
        task.model,
        opt=recipe.opt,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        betas=recipe.betas,
    )
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched={"cosine": "cosine", "linear": "poly", "constant": "step"}[recipe.schedule],
        num_epochs=steps,
        decay_epochs=steps + 1,  # of "step": never
        decay_rate=1.0,  # of "poly": its power
        warmup_epochs=round(recipe.warmup * steps),
        warmup_lr=0.0,
        min_lr=recipe.min_lr,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    ema = ModelEmaV3(task.model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None

    start = 0
    if state := load_checkpoint(out / "checkpoints"):
        start = state["step"]
        task.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if ema:
            ema.module.load_state_dict(state["ema"])
    scheduler.step_update(start)
    averaged = ema.module if ema else task.model
    model, optimizer = accelerator.prepare(task.model, optimizer)
    run = torch.compile(model) if recipe.compile else model

    loader = DataLoader(
        SeededDataset(task.train_set, recipe.seed),
        batch_sampler=StepBatches(
            images, recipe.batch_size, recipe.seed, start, steps,
            rank=accelerator.process_index, world=accelerator.num_processes),
        collate_fn=task.collate,
        num_workers=recipe.workers,
        pin_memory=device.type == "cuda",
        persistent_workers=False,
        prefetch_factor=4 if recipe.workers else None,
    )
    evaluate_every = max(1, round(recipe.evaluate_every * images / recipe.batch_size))
    figures: dict[str, float] = {}
    log = Log(out, recipe, enabled=main)
    with log.progress(start, steps) as progress:
        for step, batch in enumerate(loader, start=start):
            seed_all(recipe.seed, step, accelerator.process_index)
            budget = draw_budget(recipe.budgets, recipe.seed, step)
            model.train()
            with accelerator.autocast():
                loss = task.loss(run, batch, budget)
            accelerator.backward(loss)
            if recipe.clip_grad:
                accelerator.clip_grad_norm_(model.parameters(), recipe.clip_grad)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            scheduler.step_update(done)
            if ema:
                ema.update(task.model, step=done)
            progress.advance(loss)

            last = done == steps
            if last or done % log.EVERY == 0:
                value = progress.mean_loss()
                if not math.isfinite(value):
                    raise TrainingError(
                        f"the loss is {value} at step {done}: lower lr or raise warmup. "
                        f"The last good weights are in {out / 'checkpoints'}")
                log.write(step=done, loss=value, lr=optimizer.param_groups[0]["lr"])
            if main and (last or done % evaluate_every == 0):  # the other processes wait at their next gradient
                averaged.eval()
                with accelerator.autocast():
                    figures = task.evaluate(averaged)
                task.save(averaged, out)
                log.write(step=done, **figures)
                progress.show(figures)
            if main and (last or done % recipe.save_every == 0):
                state = {"model": task.model.state_dict(), "optimizer": optimizer.state_dict()}
                save_checkpoint(out / "checkpoints", done, state | ({"ema": ema.module.state_dict()} if ema else {}))
    accelerator.wait_for_everyone()
    return figures


def _claim(out: Path, recipe: Recipe) -> None:
    """Marks `out` as this recipe's; refuses a folder that another recipe's run has begun."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "recipe.yaml"
    if path.exists():  # by value: a setting that came with a newer version has its default in an older run
        old, new = type(recipe).load(str(path)).model_dump(), recipe.model_dump()
        if changed := [f"{key}: {new[key]} (was {old[key]})" for key in new if new[key] != old[key]]:
            raise TrainingError(
                f"{out} holds a run with other settings (now {', '.join(changed)}): choose another --out")
    path.write_text(recipe.to_yaml(), encoding="utf-8")


class Log:
    """log.jsonl for programs, a progress bar on standard error for people."""

    EVERY = 20

    def __init__(self, out: Path, recipe: Recipe, enabled: bool = True):
        self.path, self.batch_size, self.enabled = out / "log.jsonl", recipe.batch_size, enabled

    def write(self, **figures: float) -> None:
        if self.enabled:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"time": round(time.time(), 1), **figures}) + "\n")

    def progress(self, start: int, steps: int) -> "Bar":
        return Bar(start, steps, self.batch_size, self.enabled)


class Bar:
    """Steps done, loss, images per second, time left; the last evaluation's figures in a line of their own."""

    def __init__(self, start: int, steps: int, batch_size: int, enabled: bool):
        self.console = Console(file=sys.stderr)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f} images/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not enabled,
        )
        self.task = self.bar.add_task("loss -", total=steps, completed=start, rate=0)
        self.batch_size, self.enabled = batch_size, enabled
        self.losses: list[torch.Tensor] = []
        self.since = time.perf_counter()

    def __enter__(self) -> "Bar":
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def advance(self, loss: torch.Tensor) -> None:
        self.losses.append(loss.detach())  # read later: reading now would make a GPU wait
        self.bar.advance(self.task)

    def mean_loss(self) -> float:
        """Mean of the losses since the last call; what the bar shows from here on."""
        value = torch.stack(self.losses).float().mean().item()
        now = time.perf_counter()
        rate = len(self.losses) * self.batch_size / (now - self.since)
        self.bar.update(self.task, description=f"loss {value:.4f}", rate=rate)
        self.losses, self.since = [], now
        return value

    def show(self, figures: dict[str, float]) -> None:
        if self.enabled:
            text = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
            self.console.print(f"step {int(self.bar.tasks[0].completed)}: {text}")
        self.since = time.perf_counter()
