"""Nested phases become one bar that only goes forward and ends at its end."""

from __future__ import annotations

import signal
import threading
from types import SimpleNamespace
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.engines.progress import STEPS, BuildProgress, monitor_of
from alexnet_deploy.interrupts import Stopped, StopRequest, stoppable


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


class Monitor(Protocol):
    error: BaseException | None

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool: ...

    def phase_finish(self, phase_name: str) -> None: ...


def monitored(build: BuildProgress, stop: StopRequest | None = None) -> Monitor:
    monitor: Monitor = monitor_of(
        SimpleNamespace(IProgressMonitor=type("IProgressMonitor", (), {})),
        build,
        StopRequest() if stop is None else stop,
    )
    return monitor


@pytest.mark.parametrize("raised", [KeyboardInterrupt, BrokenPipeError])
@pytest.mark.parametrize("callback", ["phase_start", "step_complete", "phase_finish"])
def test_what_goes_wrong_in_a_callback_stops_at_the_next_step(callback: str, raised: type[BaseException]) -> None:
    """An exception may not pass through the builder, so that the answer to the next step tells it to stop."""

    def broken(*_arguments: Any) -> None:
        raise raised

    build, _ = progress()
    monitor = monitored(build)
    monitor.phase_start("build", None, 4)
    assert monitor.step_complete("build", 0) is True
    method = {"phase_start": "start", "step_complete": "step", "phase_finish": "finish"}[callback]
    setattr(build, method, broken)
    arguments = {"phase_start": ("x", "build", 2), "step_complete": ("build", 1), "phase_finish": ("build",)}[callback]
    getattr(monitor, callback)(*arguments)
    assert type(monitor.error) is raised
    setattr(build, method, lambda *_: None)
    assert monitor.step_complete("build", 2) is False


def test_ctrl_c_is_seen_from_another_thread_while_the_main_one_waits() -> None:
    """As inside the builder: the main thread runs no instruction of Python's, and callbacks come on others."""
    build, _ = progress()
    answers: list[bool] = []

    def calls(monitor: Monitor) -> None:
        monitor.phase_start("build", None, 4)
        answers.append(monitor.step_complete("build", 0))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        for step in range(1, 100_000):
            answers.append(monitor.step_complete("build", step))
            if not answers[-1]:
                return

    with pytest.raises(KeyboardInterrupt), stoppable(lambda _: None, "ending") as stop:
        monitor = monitored(build, stop)
        thread = threading.Thread(target=calls, args=(monitor,))
        thread.start()
        thread.join()
        assert isinstance(monitor.error, Stopped)
        stop.obey()
    assert answers[0] is True and answers[-1] is False
