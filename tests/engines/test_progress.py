"""Nested phases become one bar that only goes forward and ends at its end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.engines.progress import STEPS, BuildProgress, monitor_of


class Bar:
    def __init__(self) -> None:
        self.moves: list[tuple[int, str]] = []

    def advance(self, count: int = 1, note: str = "") -> None:
        self.moves.append((count, note))

    @property
    def at(self) -> int:
        return sum(count for count, _ in self.moves)


def progress() -> tuple[BuildProgress, Bar]:
    bar: Any = Bar()
    return BuildProgress(bar), bar


def test_a_child_is_worth_one_step_of_its_parent() -> None:
    build, bar = progress()
    build.start("build", 4)
    build.step("build", 0)
    assert bar.at == 25
    build.start("tactics", 2)
    build.step("tactics", 0)
    assert bar.at == 37 and build.fraction == 0.375
    build.step("tactics", 1)
    assert bar.at == 50
    build.finish("tactics")
    build.step("build", 1)
    assert bar.at == 50
    build.finish("build")
    assert bar.at == STEPS and bar.moves[-1][1] == "build"


def test_a_phase_of_unknown_length_or_name_does_not_break_it() -> None:
    build, bar = progress()
    build.finish("nothing")
    build.step("nothing", 3)
    build.start("build", 0)
    build.step("build", 7)
    build.finish("build")
    assert bar.at == STEPS


NAMES = st.sampled_from(["a", "b", "c"])
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), NAMES, st.integers(-2, 9)),
        st.tuples(st.just("step"), NAMES, st.integers(-2, 9)),
        st.tuples(st.just("finish"), NAMES, st.just(0)),
    ),
    max_size=40,
)


@given(EVENTS)
def test_the_bar_never_goes_back_nor_beyond_its_end(events: list[tuple[str, str, int]]) -> None:
    build, bar = progress()
    for kind, name, number in events:
        if kind == "finish":
            build.finish(name)
        else:
            (build.start if kind == "start" else build.step)(name, number)
        assert 0 <= build.fraction <= 1
    assert all(count > 0 for count, _ in bar.moves) and bar.at <= STEPS


@pytest.mark.parametrize("callback", ["phase_start", "step_complete", "phase_finish"])
def test_ctrl_c_in_any_callback_stops_at_the_next_step(callback: str) -> None:
    """An exception may not pass through the builder, so that the answer to the next step tells it to stop."""

    def interrupted(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    build, _ = progress()
    monitor = monitor_of(SimpleNamespace(IProgressMonitor=type("IProgressMonitor", (), {})), build)
    monitor.phase_start("build", None, 4)
    assert monitor.step_complete("build", 0) is True and not monitor.interrupted
    method = {"phase_start": "start", "step_complete": "step", "phase_finish": "finish"}[callback]
    setattr(build, method, interrupted)
    arguments = {"phase_start": ("x", "build", 2), "step_complete": ("build", 1), "phase_finish": ("build",)}[callback]
    getattr(monitor, callback)(*arguments)
    assert monitor.interrupted
    setattr(build, method, lambda *_: None)
    assert monitor.step_complete("build", 2) is False
