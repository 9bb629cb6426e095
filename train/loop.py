"""The one training loop. A `Task` says what is trained, on what, and how it is evaluated; `fit` does the rest.

accelerate distributes the work and timm provides optimizers, schedules and weight averaging. What a step changes is in
state.py, what it reads in batches.py.
"""

import contextlib
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol, Self

import torch
import torch.nn as nn
from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.console import Console
from torch.utils.data import Dataset

from vlcap import processes

from .batches import Reading, batch_source
from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .progress import Log, read_evaluations
from .recipe import Recipe
from .run_folder import Data, TrainingError, claim, know_data
from .sampling import draw_budget, seed_all
from .state import TrainState
from .streaming import StreamedPhotos


class Stopped(TrainingError):
    """A run that was stopped by a signal and has saved its state."""

    exit_status = 128 + signal.SIGTERM


class Loss(NamedTuple):
    """A mean (a scalar tensor), and the number of images or words that it was taken over."""

    mean: torch.Tensor
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here


class Evaluation(NamedTuple):
    """Scores and losses by name, a few sample lines to look at, and a warning if the figures look wrong."""

    figures: dict[str, float]
    samples: list[str] = []  # noqa: RUF012 - never changed
    warning: str | None = None


class Task(Protocol):
    """What a trainer adds to the loop."""

    model: nn.Module
    data: list[Data]

    @property
    def train_set(self) -> Dataset | StreamedPhotos: ...

    def collate(self, items: list) -> Any:
        """A batch of the training set's items."""

    def loss(self, model: nn.Module, batch: Any, budget: int | None) -> Loss:
        """The loss of one batch. Called under autocast."""

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Evaluates on the validation split. Every process is called and takes its `processes.share` of the photos."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes the run's result in the form that other commands load."""


def fit(make_task: Callable[[], Task], recipe: Recipe, out: Path) -> dict[str, float]:
    """Trains a task's model as the recipe says; resumes from the newest checkpoint in `out` if there is one.

    Writes into `out`: run.json, recipe.yaml, log.jsonl, tensorboard/, checkpoints/, and at each evaluation curves.png
    and what `task.save` writes. After SIGTERM or Ctrl-C it finishes the current step, saves a checkpoint and stops.

    Args:
        make_task: Function that reads the data and makes the model; the first process runs it before the others.
        recipe: The settings.
        out: Folder of the run.

    Returns:
        The last evaluation's figures.

    Raises:
        TrainingError: `out` holds a run of another recipe or of other data, or a run in progress; or the loss is not
            finite.
        Stopped: A signal stopped the run.
    """
    processes.connect()
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    main = accelerator.is_main_process
    lock = claim(out, recipe) if main else None
    try:
        seed_all(recipe.seed)  # the initial weights depend on the seed too
        with accelerator.main_process_first():
            task = make_task()
            if main:
                know_data(out, task.data)
        with Stop() as stop:
            return _Training(task, recipe, out, accelerator, stop).run()
    finally:
        if lock:
            lock.release()


class _Training:
    """A run from its newest checkpoint, or from nothing, to its last step.

    Args:
        task: What is trained.
        recipe: The settings.
        out: Folder of the run.
        accelerator: The processes and their devices.
        stop: Tells when to stop early.
    """

    def __init__(self, task: Task, recipe: Recipe, out: Path, accelerator: Accelerator, stop: "Stop"):
        self.task, self.recipe, self.out, self.accelerator, self.stop = task, recipe, out, accelerator, stop
        source = batch_source(task.train_set, task.collate, _reading(recipe, accelerator))
        if source.images is None and not recipe.steps:
            raise TrainingError("the stream's size is unknown: set steps instead of epochs")
        self.steps = recipe.total_steps(source.images)
        checkpoint = load_checkpoint(out / "checkpoints")
        if checkpoint and checkpoint["step"] > self.steps:
            reached = checkpoint["step"]
            raise TrainingError(f"{out} has reached step {reached}, beyond {self.steps} steps: choose another --out")
        task.model.to(accelerator.device)
        self.state = TrainState(task.model, source, recipe, self.steps)
        if checkpoint:
            try:
                self.state.load_state_dict(checkpoint)
            except CheckpointError as error:
                raise TrainingError(f"{out}: {error}") from None
        self.model, self.optimizer = accelerator.prepare(task.model, self.state.optimizer)
        self.compiled = torch.compile(self.model) if recipe.compile else self.model
        # Not accelerate's autocast: it sets one precision for the whole process, also for later runs in it.
        self.autocast = torch.autocast(accelerator.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
        photos_between = recipe.evaluate_every * (source.images or 0)
        self.evaluate_every = max(1, round(photos_between / recipe.batch_size)) if source.images else self.steps

    @property
    def main(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.accelerator.is_main_process

    def run(self) -> dict[str, float]:
        """Trains to the last step; returns the last evaluation's figures."""
        start = self.state.step
        [evaluated] = gather_object([read_evaluations(self.out / "log.jsonl")] if self.main else [])[:1]
        if reached := [step for step in evaluated if step <= start]:
            self.state.figures = evaluated[max(reached)]
        if evaluated and not start:  # checkpoints are written before evaluations: somebody has deleted them
            if max(evaluated) != self.steps:
                at = f"reached step {max(evaluated)}, and its checkpoints are gone"
                raise TrainingError(f"{self.out} has {at}: choose another --out")
            start, self.state.figures = self.steps, evaluated[self.steps]
        if start == self.steps and start in evaluated:
            self._say_finished()
            return self.state.figures
        with Log(self.out, start, self.steps, self.recipe.batch_size, enabled=self.main) as self.log:
            if start and self._evaluates(start) and start not in evaluated:  # stopped between step and evaluation
                self._evaluate()
            for batch in self.state.source.batches(start, self.steps):
                self.log.advance(self._learn(batch))
                self._after_step()
        self.accelerator.wait_for_everyone()
        return self.state.figures

    def _learn(self, batch: Any) -> torch.Tensor:
        """One step on a batch; returns its loss, a scalar."""
        accelerator, recipe, step = self.accelerator, self.recipe, self.state.step
        seed_all(recipe.seed, step, accelerator.process_index)
        budget = draw_budget(recipe.budgets, recipe.seed, step)
        self.model.train()
        with self.autocast:
            loss, count = self.task.loss(self.compiled, batch, budget)
        if accelerator.num_processes > 1:  # gradients are averaged over processes: weigh each by its images or words
            total = accelerator.reduce(torch.tensor(float(count), device=accelerator.device), reduction="sum")
            loss = loss * (count * accelerator.num_processes / total)
        accelerator.backward(loss)
        if recipe.clip_grad:
            accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.advance()
        return loss

    def _after_step(self) -> None:
        """Notes the loss, saves and evaluates where it is time to.

        Raises:
            Stopped: By a signal, after saving.
        """
        step = self.state.step
        stopping, evaluating = self.stop.asked(self.accelerator), self._evaluates(step)
        saving = evaluating or stopping or step % self.recipe.save_every == 0
        if saving or step % Log.EVERY == 0:  # never save weights without checking their loss
            self._note_loss()
        if saving:
            path = self._save()
        if stopping and step < self.steps:
            at = f"stopped by {self.stop.name} after step {step} of {self.steps}"
            raise Stopped(f"{at}, saved as {path}: the same command resumes the run" if self.main else at)
        if evaluating:
            self._evaluate()

    def _note_loss(self) -> None:
        value = self.accelerator.reduce(self.log.mean_loss(), reduction="mean").item()
        step = self.state.step
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {step}: lower lr or raise warmup. "
                f"The last good weights are in {self.out / 'checkpoints'}"
            )
        self.log.note(step, loss=value, lr=self.optimizer.param_groups[0]["lr"])

    def _save(self) -> Path | None:
        """Writes a checkpoint; returns its path in the process that wrote it."""
        state = self.state.state_dict()
        return save_checkpoint(self.out / "checkpoints", self.state.step, state) if self.main else None

    def _evaluates(self, step: int) -> bool:
        return step == self.steps or step % self.evaluate_every == 0

    def _evaluate(self) -> None:
        """Saves what the run is for, then evaluates it: if the evaluation fails, nothing is lost."""
        model = self.state.averaged
        model.eval()
        if self.main:
            self.task.save(model, self.out)
        with self.autocast:
            figures, samples, warning = self.task.evaluate(model)
        self.state.figures = figures
        self.log.show(self.state.step, figures, samples)
        if warning:
            self.log.say(f"warning: {warning}", style="bold yellow")

    def _say_finished(self) -> None:
        if self.main:
            longer = ": larger steps or epochs prolong it" if self.recipe.schedule == "constant" else ""
            Console(file=sys.stderr).print(
                f"{self.out} is finished, all {self.steps} steps are trained{longer}", highlight=False, soft_wrap=True
            )


def _reading(recipe: Recipe, accelerator: Accelerator) -> Reading:
    return Reading(
        recipe.batch_size,
        recipe.seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=recipe.workers,
        pin_memory=accelerator.device.type == "cuda",
    )


class Stop:
    """Turns SIGTERM and Ctrl-C into a request to stop after the current step; a second signal exits immediately."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        with contextlib.suppress(ValueError):  # only the main thread may set signal handlers
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
