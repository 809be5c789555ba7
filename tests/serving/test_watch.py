"""What a command says and does while replicas start, and when they are gone."""

from __future__ import annotations

import io

import pytest

from alexnet_deploy.errors import ServingError
from alexnet_deploy.progress import Voice
from alexnet_deploy.serving.watch import State, Watch

ROOM = ("DEPLOYING", "Deployment 'model' has 1 replicas that have taken more than 30s to be scheduled.")
RUNS: State = ("RUNNING", "")


class Told:
    """States one after the other, the last one for ever; a clock that goes when somebody sleeps or it is told to."""

    def __init__(self, *states: State) -> None:
        self.states, self.now, self.said = list(states), 0.0, io.StringIO()
        self.watch = Watch(self._state, Voice(stream=self.said), clock=lambda: self.now, sleep=self._sleep)

    def _state(self) -> State:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def look(self, after: float) -> str:
        """What it says that long after it last looked."""
        self.now += after
        before = len(self.said.getvalue())
        self.watch.look()
        return self.said.getvalue()[before:]


def test_who_starts_at_once_is_not_spoken_of() -> None:
    told = Told(("DEPLOYING", ""), RUNS)
    told.watch.until_running("2 replicas of 4 CPUs")
    assert told.said.getvalue() == ""


def test_a_wait_for_room_is_said_once_and_has_an_end() -> None:
    told = Told(ROOM)
    with pytest.raises(ServingError) as refused:
        told.watch.until_running("2 replicas of 4 CPUs and 1 GPU")
    assert told.now > 600 and "more than 30s to be scheduled" in str(refused.value)
    assert (
        told.said.getvalue().count(
            "still waiting for 2 replicas of 4 CPUs and 1 GPU; Serve says: DEPLOYING, Deployment"
        )
        == 1
    )


@pytest.mark.parametrize("state", ["DEPLOY_FAILED", "UNHEALTHY"])
def test_replicas_that_fail_are_not_waited_for(state: str) -> None:
    told = Told(("DEPLOYING", ""), (state, "Traceback\n  it broke\n"))
    with pytest.raises(ServingError, match="do not start") as refused:
        told.watch.until_running("1 replicas")
    assert f"got: {state}, it broke" in str(refused.value)


def test_replicas_that_are_gone_are_said_once_and_so_is_their_return() -> None:
    away = ("UNHEALTHY", "A replica's health check failed.")
    told = Told(RUNS, away, away, RUNS, RUNS)
    assert told.look(6) == "" and len(told.states) == 4
    # Not at every turn of the command's loop.
    assert told.look(1) == "" and len(told.states) == 4
    assert "does not answer, and Serve starts it anew: UNHEALTHY, A replica's health" in told.look(6)
    assert told.look(6) == ""
    assert "answers again" in told.look(6)
    assert told.look(6) == ""


def test_replicas_that_do_not_come_back_end_the_command() -> None:
    told = Told(("UNHEALTHY", ""))
    told.look(6)
    told.look(100)
    with pytest.raises(ServingError, match="does not answer any more"):
        told.look(100)
