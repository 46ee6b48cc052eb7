"""Pauses that grow, and times that run out.

Not tenacity or stamina: those call one function again and again, and what loops here looks at something else between
two attempts (a stop request, a page, another host), and often ends by what it has seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A moment that something must not outlast, by the monotonic clock.

    :param seconds: from now; ``inf``: never.
    """

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds until then, 0 or more."""
        return max(0.0, self._at - time.monotonic())

    def passed(self, ahead: float = 0.0) -> bool:
        """Whether it is over, or would be some time from now.

        :param ahead: seconds from now; default 0.
        """
        return time.monotonic() + ahead >= self._at


class Backoff:
    """Pauses between attempts, each longer than the one before: ``first * growth**n``, at most ``longest``.

    :param first: seconds.
    :param longest: seconds.
    :param growth: how many times as long each is; default 2.
    :ivar pause: the pause to make next, in seconds.
    """

    def __init__(self, first: float, longest: float, growth: float = 2.0) -> None:
        self._longest, self._growth = longest, growth
        self.pause = first

    def next(self) -> float:
        """The pause to make now, in seconds; the next one is longer."""
        pause = self.pause
        self.pause = min(pause * self._growth, self._longest)
        return pause


def sleep(seconds: float, meanwhile: Callable[[], None] | None = None, every: float = 0.2) -> None:
    """Wait, and look after something while waiting.

    :param seconds: how long.
    :param meanwhile: called before each piece of the pause; what it raises ends the pause. None (default): nothing.
    :param every: seconds between two calls; default 0.2.
    """
    end = Deadline(seconds)
    while (remaining := end.remaining) > 0:
        if meanwhile is not None:
            meanwhile()
        time.sleep(min(remaining, every))
