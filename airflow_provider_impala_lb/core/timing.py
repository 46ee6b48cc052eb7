"""Pauses that grow, and times that run out."""

from __future__ import annotations

import time

from airflow_provider_impala_lb.errors import ConfigError

DAY, WEEK = 86400.0, 7 * 86400.0


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
        """Whether it is over, or would be ``ahead`` seconds from now."""
        return time.monotonic() + ahead >= self._at


class Backoff:
    """Pauses between tries, each longer than the one before: ``first * growth**n``, at most ``longest``.

    :param first: seconds.
    :param longest: seconds.
    :param growth: how many times as long each is; default 2.
    """

    def __init__(self, first: float, longest: float, growth: float = 2.0) -> None:
        self._first, self._longest, self._growth = first, longest, growth
        self.pause = first

    def next(self) -> float:
        """The pause to make now, in seconds; the next one is longer."""
        pause = self.pause
        self.pause = min(pause * self._growth, self._longest)
        return pause

    def reset(self) -> None:
        """Begin with ``first`` again."""
        self.pause = self._first


def check_seconds(key: str, value: float, most: float, why: str, *, least: float | None = None) -> None:
    """:param key: what to call it in the error.
    :param most: the greatest value; ``least`` the smallest, None: anything above 0.
    :param why: the reason for ``most``.
    :raises ConfigError: outside of these, or no number (nan).
    """
    if not (value > 0 if least is None else value >= least) or value > most:
        low = "above 0" if least is None else f"{least:g} or more"
        raise ConfigError(f"{key}: is {value:g}, must be {low} and at most {most:.0f} seconds ({why})")
