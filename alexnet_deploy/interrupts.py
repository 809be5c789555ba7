"""Ctrl-C and SIGTERM: acknowledged at once, whatever the main thread does, and obeyed where nothing gets lost."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_END = b"\0"


class Stopped(KeyboardInterrupt):
    """Somebody asked the command to end.

    Args:
        number: The signal.
        remedy: How to go on.
    """

    def __init__(self, number: int = signal.SIGINT, remedy: str | None = None) -> None:
        self.number, self.remedy = number, remedy
        super().__init__(remedy or "")

    @property
    def exit_code(self) -> int:
        """As shells count it: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number


@dataclass
class StopRequest:
    """Whether somebody asked for the end; any thread may look.

    Attributes:
        remedy: How to go on afterwards.
        heard: The signals that came, as the listening thread knows them.
        handled: The same, as the main thread does: either may be ahead, and two of a kind may be handled as one.
    """

    remedy: str | None = None
    heard: list[int] = field(default_factory=list)
    handled: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.heard or self.handled)

    @property
    def number(self) -> int:
        """The first signal that came; 0 where none did."""
        return (self.heard + self.handled)[0] if self else 0

    @property
    def insisted(self) -> bool:
        """Whether it was asked for more than once."""
        return max(len(self.heard), len(self.handled)) > 1

    def obey(self) -> None:
        """Ends the block where somebody asked for it.

        Raises:
            Stopped: Somebody did.
        """
        if self:
            raise Stopped(self.number, self.remedy)


@contextlib.contextmanager
def stoppable(
    acknowledge: Callable[[str], None], text: str, *, remedy: str | None = None, at_once: bool = False
) -> Iterator[StopRequest]:
    """Hears SIGINT and SIGTERM inside the block.

    Python runs a signal's handler only between two of its own instructions on the main thread, which may be seconds
    away in a runtime's code. The byte that the signal leaves in a pipe is there at once, and a thread waits for it.

    Args:
        acknowledge: Says `text` when the first one comes; called on the other thread.
        text: What happens now.
        remedy: How to go on afterwards.
        at_once: Raise in the block as soon as Python can; else the block asks, and only the second signal raises.

    Raises:
        Stopped: As said above; never outside the main thread, which has no signals.
    """
    request = StopRequest(remedy)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    reads, writes = os.pipe()
    os.set_blocking(writes, False)

    def handle(number: int, _frame: object) -> None:
        request.handled.append(number)
        if at_once or request.insisted:
            raise Stopped(number, remedy)

    listener = threading.Thread(target=_listen, args=(reads, request, acknowledge, text), daemon=True)
    # Shells have what they start in the background ignore Ctrl-C; that stays.
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    wakeup = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    listener.start()
    try:
        yield request
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writes, _END)
        listener.join()
        os.close(reads)
        os.close(writes)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Has signals that come inside the block handled at its end: what it does is done, or not begun."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def keep(number: int, _frame: object) -> None:
        came.append(number)

    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in before:
        signal.signal(number, keep)
    try:
        yield
    finally:
        # What comes while they are put back waits, and finds them all.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, set(before))
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for each in came:
            before[signal.Signals(each)](each, None)


def _listen(reads: int, request: StopRequest, acknowledge: Callable[[str], None], text: str) -> None:
    while (byte := os.read(reads, 1)) != _END:
        if byte[0] in _SIGNALS:
            request.heard.append(byte[0])
            if len(request.heard) == 1:
                acknowledge(text)
