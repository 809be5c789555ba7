"""What a training run is asked for, and the learning rate at every step. Standard library only."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from alexnet_deploy.errors import InputError
from alexnet_deploy.specs import fingerprint

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("onecycle", "cosine")
PRECISIONS = ("auto", "fp32", "bf16")
# One-cycle warms up for a quarter of the run from 1/25 of the peak; cosine for a twentieth from nothing.
_ONECYCLE_WARMUP, _ONECYCLE_START = 0.25, 1 / 25
_COSINE_WARMUP = 0.05


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """A training run.

    Attributes:
        learning_rate: Peak of the schedule.
        train_size: Side of the training images where it is not the network's own (progressive resizing).
        flip: Mirror half of the images left to right.
        head_only: Train the fully connected layers on features of the frozen trunk, computed once.
        density: Share of the weights of fc6 and fc7 that magnitude pruning leaves; 1 prunes nothing.
        validation_share: Share of the training images held out.
        precision: `bf16` autocasts, `auto` does where the CPU multiplies bf16 (or there is a GPU).
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 5e-4
    optimizer: str = "adamw"
    schedule: str = "onecycle"
    weight_decay: float = 0.05
    dropout: float = 0.5
    label_smoothing: float = 0.0
    clip_norm: float = 5.0
    seed: int = 0
    train_size: int | None = None
    flip: bool = True
    head_only: bool = False
    density: float = 1.0
    validation_share: float = 0.02
    precision: str = "auto"

    def __post_init__(self) -> None:
        checks = [
            (1 <= self.epochs <= 10_000, "epochs", self.epochs, "1 to 10,000"),
            (1 <= self.batch_size <= 65_536, "batch size", self.batch_size, "1 to 65,536"),
            (0 < self.learning_rate < 100, "learning rate", self.learning_rate, "above 0"),
            (self.optimizer in OPTIMIZERS, "optimizer", self.optimizer, ", ".join(OPTIMIZERS)),
            (self.schedule in SCHEDULES, "schedule", self.schedule, ", ".join(SCHEDULES)),
            (self.precision in PRECISIONS, "precision", self.precision, ", ".join(PRECISIONS)),
            (0 <= self.weight_decay <= 10, "weight decay", self.weight_decay, "0 to 10"),
            (0 <= self.seed < 2**31, "seed", self.seed, "0 up to 2**31"),
            (0 <= self.dropout < 1, "dropout", self.dropout, "0 up to 1"),
            (0 <= self.label_smoothing < 1, "label smoothing", self.label_smoothing, "0 up to 1"),
            (0 < self.density <= 1, "density", self.density, "above 0, up to 1"),
            (0 <= self.validation_share <= 0.5, "validation share", self.validation_share, "0 to 0.5"),
            (not (self.head_only and self.train_size), "train size", self.train_size, "none with head-only"),
        ]
        for fine, name, got, expected in checks:
            if not fine:
                raise InputError(f"training cannot use this value of {name}", got=got, expected=expected)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    @property
    def fingerprint(self) -> str:
        """Changes when the run would."""
        return fingerprint(self.to_json())


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How the work of a step is spread over time and cores, which changes no result but by rounding.

    Apart from `TrainingOptions`, so that a run may be resumed with another spread.

    Attributes:
        accumulate: Parts in which each process takes its share of a batch, one after the other; the gradients add up.
        threads: Of each process; None takes `OMP_NUM_THREADS`, or without it an equal share of the CPUs.
        timeout_s: Seconds after which a process that does not answer counts as lost.
    """

    accumulate: int = 1
    threads: int | None = None
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        checks = [
            (1 <= self.accumulate <= 65_536, "--accumulate", self.accumulate, "1 to 65,536"),
            (self.threads is None or 1 <= self.threads <= 4096, "--threads", self.threads, "1 to 4,096"),
            (1 <= self.timeout_s <= 86_400, "--rank-timeout", self.timeout_s, "1 second to a day"),
        ]
        for fine, name, got, expected in checks:
            if not fine:
                raise InputError(f"training cannot use this value of {name}", got=got, expected=expected)


def learning_rate_at(step: int, total_steps: int, options: TrainingOptions) -> float:
    """Linear warm-up, then half a cosine down to zero.

    `onecycle` follows L. Smith and N. Topin, Super-Convergence (2018), as torch's OneCycleLR does; `cosine`
    follows I. Loshchilov and F. Hutter, SGDR (2017), without restarts.
    """
    onecycle = options.schedule == "onecycle"
    warmup = max(1, round(total_steps * (_ONECYCLE_WARMUP if onecycle else _COSINE_WARMUP)))
    start = _ONECYCLE_START if onecycle else 0.0
    if step < warmup:
        share = start + (1 - start) * (step + 1) / warmup
    else:
        share = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))
    return options.learning_rate * share
