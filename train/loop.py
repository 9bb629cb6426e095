"""The one training loop. A `Task` says what is trained, on what and how it is judged; `fit` does the rest.

Distribution and mixed precision are accelerate's, optimiser, schedule and weight averaging are timm's.
"""

import contextlib
import math
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol, Self

import torch
import torch.nn as nn
from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.console import Console
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch.utils.data import DataLoader, Dataset

from vlcap import processes

from .checkpoint import load_checkpoint, save_checkpoint
from .progress import Log, read_evaluations
from .recipe import Recipe
from .run_folder import Data, TrainingError, claim, know_data
from .sampling import SeededDataset, StepBatches, draw_budget, in_worker, read, seed_all
from .streaming import Places, StreamedPhotos


class Stopped(TrainingError):
    """A run that was asked to stop, and has saved where it was."""

    exit_status = 128 + signal.SIGTERM


class Loss(NamedTuple):
    """A mean, a scalar tensor, and over how many it was taken: images, words."""

    mean: torch.Tensor
    count: int  # type: ignore[assignment]  # tuple has a method of this name, which nobody misses


class Evaluation(NamedTuple):
    """Figures of merit, a few lines to look at, and what is wrong with them, if anything."""

    figures: dict[str, float]
    samples: list[str] = []  # noqa: RUF012 - never changed
    warning: str | None = None


class Task(Protocol):
    """What a trainer adds to the loop."""

    model: nn.Module
    train_set: Dataset | StreamedPhotos
    data: list[Data]

    def collate(self, items: list) -> Any:
        """A batch of the training set's items."""

    def loss(self, model: nn.Module, batch: Any, budget: int | None) -> Loss:
        """The loss of one batch; under autocast."""

    def evaluate(self, model: nn.Module) -> Evaluation:
        """How good it is on the validation split. Every process is asked, for its `processes.share` of the photos."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """What the run is for, in the form that others load."""


def fit(make_task: Callable[[], Task], recipe: Recipe, out: Path) -> dict[str, float]:
    """Trains a task's model as the recipe says; goes on from the newest checkpoint in `out` if there is one.

    Writes into `out`: run.json, recipe.yaml, log.jsonl, tensorboard/, checkpoints/, and at each evaluation curves.png
    and what `task.save` writes. SIGTERM and Ctrl-C are answered after the step in hand, by a checkpoint.

    Args:
        make_task: Reads the data and makes the model; what it writes on the way, the first process writes for all.
        recipe: The settings.
        out: Folder of the run.

    Returns:
        The last evaluation's figures.

    Raises:
        TrainingError: `out` holds a run of another recipe, of other data, or one that is going on; or the loss is not
            finite.
        Stopped: By a signal.
    """
    processes.connect()
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    main = accelerator.is_main_process
    lock = claim(out, recipe) if main else None
    try:
        seed_all(recipe.seed)  # the weights that a run starts from are its own too
        with accelerator.main_process_first():
            task = make_task()
            if main:
                know_data(out, task.data)
        with Stop() as stop:
            return _train(task, recipe, out, accelerator, stop)
    finally:
        if lock:
            lock.release()


def _train(task: Task, recipe: Recipe, out: Path, accelerator: Accelerator, stop: "Stop") -> dict[str, float]:
    device, main, world = accelerator.device, accelerator.is_main_process, accelerator.num_processes
    streamed = isinstance(task.train_set, StreamedPhotos)
    images = task.train_set.stream.images if streamed else len(task.train_set)
    if images is None and not recipe.steps:
        raise TrainingError("nobody has said how many photos this stream has: set steps, in place of epochs")
    steps = recipe.total_steps(images)
    state = load_checkpoint(out / "checkpoints")
    start = state["step"] if state else 0
    if start > steps:
        raise TrainingError(f"{out} has reached step {start} and can't become a run of {steps}: choose another --out")
    task.model.to(device)
    optimizer = create_optimizer_v2(
        task.model,
        opt=recipe.opt,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        betas=recipe.betas,
        **({"fused": True} if recipe.opt in ("adam", "adamw") else {}),  # a tenth of a small model's step on a CPU
    )
    # A prolonged run's is what it was: the learning rate of steps behind it can't change any more.
    warmup = state["warmup"] if state else round(recipe.warmup * steps)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched={"cosine": "cosine", "linear": "poly", "constant": "step"}[recipe.schedule],
        num_epochs=steps,
        decay_epochs=steps + 1,  # of "step": never
        decay_rate=1.0,  # of "poly": its power
        warmup_epochs=warmup,
        warmup_lr=0.0,
        min_lr=recipe.min_lr,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    ema = ModelEmaV3(task.model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None

    places: list[Places] = [{} for _ in range(world)]  # of a stream, per process
    if state:
        task.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if ema:
            ema.module.load_state_dict(state["ema"])
        if streamed:
            if len(state["places"]) != world:
                raise TrainingError(
                    f"{out} was streamed by {len(state['places'])} processes, now there are {world}: "
                    "start as many, or choose another --out"
                )
            places = state["places"]
    scheduler.step_update(start)
    averaged = ema.module if ema else task.model
    model, optimizer = accelerator.prepare(task.model, optimizer)
    run = torch.compile(model) if recipe.compile else model
    # Not accelerate's: its precision is one for the whole process, whatever runs come after.
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")

    mine = places[accelerator.process_index]
    batches = _batches(task, recipe, start, steps, accelerator, mine)
    evaluate_every = max(1, round(recipe.evaluate_every * images / recipe.batch_size)) if images else steps

    def evaluating(step: int) -> bool:
        return step == steps or step % evaluate_every == 0

    def evaluate(step: int) -> dict[str, float]:
        """Saves what the run is for, then judges it: a failure there takes nothing with it."""
        averaged.eval()
        if main:
            task.save(averaged, out)
        with autocast:
            figures, samples, warning = task.evaluate(averaged)
        log.show(step, figures, samples)
        if warning:
            log.say(f"warning: {warning}", style="bold yellow")
        return figures

    [evaluated] = gather_object([read_evaluations(out / "log.jsonl")] if main else [])[:1]
    figures = evaluated[max(reached)] if (reached := [step for step in evaluated if step <= start]) else {}
    if start == steps and start in evaluated:
        if main:
            longer = ": a larger steps or epochs prolongs it" if recipe.schedule == "constant" else ""
            Console(file=sys.stderr).print(
                f"{out} is finished, all of its {steps} steps are trained{longer}", highlight=False, soft_wrap=True
            )
        return figures
    with Log(out, start, steps, recipe.batch_size, enabled=main) as log:
        if start and evaluating(start) and start not in evaluated:  # stopped in between
            figures = evaluate(start)
        for step, batch in enumerate(batches, start=start):
            seed_all(recipe.seed, step, accelerator.process_index)
            budget = draw_budget(recipe.budgets, recipe.seed, step)
            model.train()
            with autocast:
                loss, count = task.loss(run, batch, budget)
            if world > 1:  # gradients are averaged over processes: each counts for as much as it has seen
                total = accelerator.reduce(torch.tensor(float(count), device=device), reduction="sum")
                loss = loss * (count * world / total)
            accelerator.backward(loss)
            if recipe.clip_grad:
                accelerator.clip_grad_norm_(model.parameters(), recipe.clip_grad)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            scheduler.step_update(done)
            if ema:
                ema.update(task.model, step=done)
            log.advance(loss)

            stopping = stop.asked(accelerator)
            saving = evaluating(done) or stopping or done % recipe.save_every == 0
            if saving or done % log.EVERY == 0:  # no weights are kept whose loss nobody has looked at
                value = accelerator.reduce(log.mean_loss(), reduction="mean").item()
                if not math.isfinite(value):
                    raise TrainingError(
                        f"the loss is {value} at step {done}: lower lr or raise warmup. "
                        f"The last good weights are in {out / 'checkpoints'}"
                    )
                log.note(done, loss=value, lr=optimizer.param_groups[0]["lr"])
            if saving:
                everywhere = gather_object([mine]) if streamed else places
                if main:
                    state = {
                        "model": task.model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "warmup": warmup,
                        "places": everywhere,
                    }
                    path = save_checkpoint(
                        out / "checkpoints", done, state | ({"ema": ema.module.state_dict()} if ema else {})
                    )
            if stopping and done < steps:
                at = f"stopped by {stop.name} after step {done} of {steps}"
                raise Stopped(f"{at}, saved as {path}: the same command goes on from there" if main else at)
            if evaluating(done):
                figures = evaluate(done)
    accelerator.wait_for_everyone()
    return figures


def _batches(
    task: Task, recipe: Recipe, start: int, steps: int, accelerator: Accelerator, places: Places
) -> Iterator[Any]:
    """This process's batches of the steps from `start` on; keeps `places` at those of the last one given."""
    rank, world = accelerator.process_index, accelerator.num_processes
    pin = accelerator.device.type == "cuda"
    if isinstance(task.train_set, StreamedPhotos):
        loader = task.train_set.loader(
            task.collate,
            seed=recipe.seed,
            batch_size=recipe.batch_size,
            start=start,
            stop=steps,
            places=dict(places),
            rank=rank,
            world=world,
            workers=recipe.workers,
            pin_memory=pin,
        )
        for item in read(loader):
            if item is not None:
                batch, (stream, place) = item
                places[stream] = tuple(place)
                yield batch
        return
    yield from read(
        DataLoader(
            SeededDataset(task.train_set, recipe.seed),
            batch_sampler=StepBatches(
                len(task.train_set), recipe.batch_size, recipe.seed, start, steps, rank=rank, world=world
            ),
            collate_fn=task.collate,
            num_workers=recipe.workers,
            worker_init_fn=in_worker,
            pin_memory=pin,
            prefetch_factor=4 if recipe.workers else None,
        )
    )


class Stop:
    """Takes SIGTERM and Ctrl-C as a request, to be answered between steps; a second one is not kept waiting."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        with contextlib.suppress(ValueError):  # not in the main thread: signals are somebody else's
            self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def asked(self, accelerator: Accelerator) -> bool:
        """Whether to stop after this step; the same answer in every process."""
        if accelerator.num_processes == 1:
            return self.name is not None
        if self.name:
            accelerator.set_trigger()
        return accelerator.check_trigger()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
