"""A run that cannot be is refused before it starts, and the learning rate rises and falls as its schedule says."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.errors import InputError
from alexnet_deploy.training.options import SCHEDULES, TrainingOptions, learning_rate_at


def rates(schedule: str, total: int, peak: float = 1.0) -> list[float]:
    options = TrainingOptions(schedule=schedule, learning_rate=peak)
    return [learning_rate_at(step, total, options) for step in range(total)]


@settings(deadline=None)
@given(schedule=st.sampled_from(SCHEDULES), total=st.integers(1, 3000), peak=st.floats(1e-6, 99, exclude_min=True))
def test_the_rate_rises_to_its_peak_and_falls_towards_zero(schedule: str, total: int, peak: float) -> None:
    found = rates(schedule, total, peak)
    top = found.index(max(found))
    assert max(found) == pytest.approx(peak, rel=1e-12)
    assert all(rate > 0 for rate in found)
    assert all(a <= b for a, b in itertools.pairwise(found[: top + 1]))
    assert all(a >= b for a, b in itertools.pairwise(found[top:]))
    if total >= 100:
        assert found[-1] < 1e-3 * peak


@pytest.mark.parametrize(
    ("schedule", "warmup", "first"), [("onecycle", 250, 1 / 25 + 24 / 25 / 250), ("cosine", 50, 0.02)]
)
def test_the_warm_up_is_a_line(schedule: str, warmup: int, first: float) -> None:
    found = rates(schedule, 1000)
    assert found[0] == pytest.approx(first, rel=1e-12)
    assert found[warmup - 1] == found[warmup] == 1.0
    steps = [b - a for a, b in itertools.pairwise(found[:warmup])]
    assert max(steps) == pytest.approx(min(steps), rel=1e-9)


def test_the_fall_is_half_a_cosine_as_torch_draws_it() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=950)
    theirs = []
    for _ in range(950):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates("cosine", 1000)[50:] == pytest.approx(theirs, abs=1e-12)


def test_the_middle_of_the_fall_is_half_the_peak() -> None:
    assert rates("onecycle", 1000, 8.0)[250 + 375] == pytest.approx(4.0, rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_of_one_step_takes_it_at_the_peak(schedule: str) -> None:
    assert rates(schedule, 1, 0.3) == [0.3]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 10_001}, "epochs"),
        ({"batch_size": 0}, "batch size"),
        ({"batch_size": 65_537}, "batch size"),
        ({"learning_rate": 0.0}, "learning rate"),
        ({"learning_rate": -1.0}, "learning rate"),
        ({"learning_rate": 100.0}, "learning rate"),
        ({"learning_rate": math.nan}, "learning rate"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"schedule": "step"}, "schedule"),
        ({"precision": "fp16"}, "precision"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"label_smoothing": 1.0}, "label smoothing"),
        ({"density": 0.0}, "density"),
        ({"density": 1.1}, "density"),
        ({"validation_share": 0.6}, "validation share"),
        ({"validation_share": -0.1}, "validation share"),
        ({"head_only": True, "train_size": 128}, "train size"),
    ],
)
def test_a_run_that_cannot_be_is_refused_by_the_options_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=f"training cannot use this value of {words}") as caught:
        TrainingOptions(**fields)
    assert caught.value.expected is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"weight_decay": -0.1},
        {"weight_decay": math.nan},
        {"seed": -1},
    ],
)
def test_a_run_that_torch_or_numpy_would_stumble_over_is_refused_too(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="training cannot use this value"):
        TrainingOptions(**fields)


@pytest.mark.parametrize(
    "fields", [{"dropout": 0.0}, {"density": 1.0}, {"validation_share": 0.0}, {"validation_share": 0.5}, {"seed": 0}]
)
def test_the_ends_of_the_ranges_are_taken(fields: dict[str, Any]) -> None:
    options = TrainingOptions(**fields)
    assert options.to_json() == {**TrainingOptions().to_json(), **fields}


CHANGES: list[dict[str, Any]] = [
    {"epochs": 11},
    {"batch_size": 32},
    {"learning_rate": 1e-3},
    {"optimizer": "sgd"},
    {"schedule": "cosine"},
    {"weight_decay": 0.0},
    {"dropout": 0.0},
    {"label_smoothing": 0.1},
    {"clip_norm": 1.0},
    {"seed": 1},
    {"train_size": 128},
    {"flip": False},
    {"head_only": True},
    {"density": 0.5},
    {"validation_share": 0.1},
    {"precision": "fp32"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_the_fingerprint_changes_with_every_option(change: dict[str, Any]) -> None:
    assert TrainingOptions(**change).fingerprint != TrainingOptions().fingerprint


def test_the_changes_above_name_every_option() -> None:
    assert {name for change in CHANGES for name in change} == {f.name for f in dataclasses.fields(TrainingOptions)}
