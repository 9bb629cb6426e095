"""What a run consists of between two steps. A checkpoint holds all of it, so that a resumed run is exactly the same."""

from typing import Any

import torch.nn as nn
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3

from .batches import BatchSource
from .checkpoint import CheckpointError
from .recipe import Recipe


class TrainState:
    """Step, model, optimizer, schedule, weight average and data position of a run.

    `figures` are those of the last evaluation. They aren't saved here: a step is saved before it is evaluated, and
    log.jsonl has them.

    Args:
        model: The model, already on its device.
        source: Where the batches come from.
        recipe: The settings.
        steps: Length of the run.
    """

    def __init__(self, model: nn.Module, source: BatchSource, recipe: Recipe, steps: int):
        self.model, self.source, self.recipe, self.steps = model, source, recipe, steps
        self.step = 0
        self.figures: dict[str, float] = {}
        self.optimizer = create_optimizer_v2(
            model,
            opt=recipe.opt,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
            betas=recipe.betas,
            **({"fused": True} if recipe.opt in ("adam", "adamw") else {}),  # saves a tenth of a small step on a CPU
        )
        self.warmup = round(recipe.warmup * steps)
        self.scheduler = self._new_scheduler()
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None

    @property
    def averaged(self) -> nn.Module:
        """The model to evaluate and to keep: the weight average if there is one."""
        return self.ema.module if self.ema else self.model

    def advance(self) -> None:
        """Counts a step whose gradients the optimizer has applied."""
        self.step += 1
        self.scheduler.step_update(self.step)
        if self.ema:
            self.ema.update(self.model, step=self.step)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds. Every process must call this: the data position is gathered from all."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "warmup": self.warmup,
            "places": self.source.state_dict(),
        }
        return state | ({"ema": self.ema.module.state_dict()} if self.ema else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to where a checkpoint was written.

        Raises:
            CheckpointError: The checkpoint is of another version, or of another number of processes.
        """
        wanted = {"step", "model", "optimizer", "warmup", "places", *(["ema"] if self.ema else [])}
        if missing := sorted(wanted - state.keys()):
            raise CheckpointError(
                f"another version wrote this checkpoint (it has no {', '.join(missing)}): "
                "finish the run with that version, or choose another --out"
            )
        # A prolonged run keeps its warm-up: the learning rates of the steps behind it can't change anymore.
        self.warmup = state["warmup"]
        self.scheduler = self._new_scheduler()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        self.source.load_state_dict(state["places"])
        self.step = state["step"]
        self.scheduler.step_update(self.step)

    def _new_scheduler(self) -> Scheduler:
        scheduler, _ = create_scheduler_v2(
            self.optimizer,
            sched={"cosine": "cosine", "linear": "poly", "constant": "step"}[self.recipe.schedule],
            num_epochs=self.steps,
            decay_epochs=self.steps + 1,  # "step" never decays
            decay_rate=1.0,  # the power of "poly"
            warmup_epochs=self.warmup,
            warmup_lr=0.0,
            min_lr=self.recipe.min_lr,
            step_on_epochs=False,
            updates_per_epoch=1,
        )
        scheduler.step_update(self.step)
        return scheduler
