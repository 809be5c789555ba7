"""What Serve says of the replicas: until all of them run, and while they should."""

from __future__ import annotations

import time
from collections.abc import Callable

from alexnet_deploy.errors import ServingError
from alexnet_deploy.progress import Voice

# The state and the reason, as Serve has them.
State = tuple[str, str]
RUNNING = "RUNNING"
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
_POLL_SECONDS = 0.1
# Engines of some hundred megabytes are open within seconds.
_SAID_AFTER_SECONDS = 20.0
# A cluster may have to start a machine first.
_START_SECONDS = 600.0
_LOOK_SECONDS = 5.0
# A replica that is started anew answers within half a minute; one that has not by then will not.
_REPAIR_SECONDS = 120.0


class Watch:
    """Asks Serve for the state of the model.

    Args:
        state: What it is now.
        voice: For news.
        clock: Seconds, from anywhere on.
        sleep: Waits for so many.
    """

    def __init__(
        self,
        state: Callable[[], State],
        voice: Voice,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._state, self._voice, self._clock, self._sleep = state, voice, clock, sleep
        self._looked = clock()
        self._away_since: float | None = None

    def until_running(self, needs: str) -> None:
        """Waits until every replica runs.

        Args:
            needs: What they ask of the cluster, for whoever wonders what is waited for.

        Raises:
            ServingError: They do not start, or not within ten minutes.
        """
        started, said = self._clock(), False
        while (found := self._state())[0] != RUNNING:
            waited = self._clock() - started
            if found[0] in _FAILED or waited > _START_SECONDS:
                raise ServingError(
                    "the replicas do not start",
                    got=_line(found),
                    expected=needs,
                    remedy="see that there is room for them: less threads or replicas, or end what else runs there",
                )
            if waited > _SAID_AFTER_SECONDS and not said:
                self._voice.warn(f"still waiting for {needs}; Serve says: {_line(found)}")
                said = True
            self._sleep(_POLL_SECONDS)

    def look(self) -> None:
        """Sees now and then whether they still run, and says where they do not.

        Raises:
            ServingError: They did not come back.
        """
        now = self._clock()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        found = self._state()
        if found[0] == RUNNING:
            if self._away_since is not None:
                self._voice.say("the model answers again")
            self._away_since = None
        elif self._away_since is None:
            self._away_since = now
            self._voice.warn(f"the model does not answer, and Serve starts it anew: {_line(found)}")
        elif now - self._away_since > _REPAIR_SECONDS:
            raise ServingError(
                "the model does not answer any more",
                got=_line(found),
                expected=f"that Serve starts it anew within {_REPAIR_SECONDS:g} s",
                remedy="start the command again; doctor says what this machine can run",
            )


def _line(state: State) -> str:
    lines = [line.strip() for line in state[1].splitlines() if line.strip()]
    return f"{state[0]}, {lines[-1]}" if lines else state[0]
