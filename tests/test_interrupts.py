"""Ctrl-C is acknowledged while the main thread is in a runtime's code, and obeyed where the block says."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable

import pytest

from alexnet_deploy.interrupts import Stopped, StopRequest, deferred, stoppable


class Ear:
    """Counts what is acknowledged."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.spoken = threading.Event()

    def __call__(self, text: str) -> None:
        self.texts.append(text)
        self.spoken.set()


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def busy(until: Callable[[], bool]) -> None:
    """In C, where no handler of Python's runs, until the other thread has seen something."""
    for _ in range(1000):
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 20_000)
        if until():
            return
    raise AssertionError("nothing came")


def test_the_block_goes_on_after_the_first_and_asks_by_itself() -> None:
    ear, reached = Ear(), []
    with pytest.raises(Stopped) as ended, stoppable(ear, "ending", remedy="go on") as stop:
        assert not stop
        stop.obey()
        send()
        reached.append(bool(stop))
        stop.obey()
        reached.append(False)
    assert reached == [True]
    assert ended.value.remedy == "go on" and ended.value.exit_code == 130
    assert ear.texts == ["ending"]


def test_it_is_acknowledged_while_the_main_thread_is_away() -> None:
    """A blocked signal stands for code that does not return: Python's handler cannot run, the byte is there."""
    ear, order = Ear(), list[str]()
    with pytest.raises(Stopped), stoppable(ear, "ending", at_once=True):
        started = threading.Event()

        def later() -> None:
            started.wait()
            send()

        thread = threading.Thread(target=later)
        thread.start()
        # One call in C, of some hundred milliseconds, during which the signal comes.
        started.set()
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 1_000_000)
        order.append("back")
        thread.join()
    assert ear.texts == ["ending"] and order == []


def test_the_second_raises_at_once() -> None:
    ear = Ear()
    with pytest.raises(Stopped) as ended, stoppable(ear, "ending"):
        send()
        send()
        busy(lambda: False)
    assert ear.texts == ["ending"] and ended.value.number == signal.SIGINT


def test_sigterm_ends_with_its_own_code() -> None:
    with pytest.raises(Stopped) as ended, stoppable(Ear(), "ending", at_once=True):
        send(signal.SIGTERM)
        busy(lambda: False)
    assert ended.value.exit_code == 143


def test_another_thread_may_look() -> None:
    ear, seen = Ear(), list[bool]()
    with stoppable(ear, "ending") as stop:
        send()
        assert ear.spoken.wait(30)
        thread = threading.Thread(target=lambda: seen.append(bool(stop)))
        thread.start()
        thread.join()
    assert seen == [True]


def test_handlers_are_put_back_and_threads_and_pipes_are_gone() -> None:
    before = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), threading.active_count())
    files = len(os.listdir("/proc/self/fd"))
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    for _ in range(3):
        with stoppable(Ear(), "outer", at_once=True), stoppable(Ear(), "inner"):
            assert signal.getsignal(signal.SIGINT) is not before[0]
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), threading.active_count())
    assert len(os.listdir("/proc/self/fd")) == files
    assert signal.set_wakeup_fd(wakeup) == wakeup


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ear = Ear()
        with stoppable(ear, "ending", at_once=True) as stop:
            send()
            assert not stop
        assert ear.texts == [] and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_inner_block_hears_it_and_the_outer_one_does_not() -> None:
    outer, inner = Ear(), Ear()
    with stoppable(outer, "outer", at_once=True), stoppable(inner, "inner") as stop:
        send()
        assert stop
    assert (outer.texts, inner.texts) == ([], ["inner"])


def test_outside_the_main_thread_there_are_no_signals() -> None:
    found: list[StopRequest] = []

    def other() -> None:
        with stoppable(Ear(), "ending") as stop:
            found.append(stop)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert not found[0] and signal.getsignal(signal.SIGINT) is before


def test_what_comes_inside_is_handled_at_the_end_of_the_block() -> None:
    done = []
    with pytest.raises(Stopped), stoppable(Ear(), "ending", at_once=True), deferred():
        send()
        done.append("the rest of the block")
    assert done == ["the rest of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_blocks_within_blocks_hand_it_on_and_nothing_is_counted_twice() -> None:
    with stoppable(Ear(), "ending") as request:
        with deferred():
            with deferred():
                send()
            assert not request.handled
        assert request.handled == [signal.SIGINT] and not request.insisted
