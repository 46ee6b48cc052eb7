"""One node as a queue: full speed for as many scripts as it has slots, above that they share."""

from __future__ import annotations

import heapq


class Script:
    """A script: ours if it is placed by the balancer, else another client's.

    :ivar name: its number, as a lease's id
    :ivar ready: when it may begin, seconds
    :ivar size: seconds it takes alone
    :ivar foreign: the number of the node it runs on; None: it is placed by the balancer
    :ivar chain: its session key, or None
    :ivar then: sizes of the scripts that depend on it, in order
    :ivar leaks: its worker dies at its end, so that its lease stays until it expires
    :ivar avoid: nodes it was moved away from, each with the reason
    """

    __slots__ = ("avoid", "chain", "finish", "foreign", "leaks", "name", "node", "ready", "since", "size", "then")

    def __init__(
        self,
        name: int,
        ready: float,
        size: float,
        *,
        foreign: int | None = None,
        chain: str | None = None,
        then: tuple[float, ...] = (),
        leaks: bool = False,
    ) -> None:
        self.name = f"{name:08x}"
        self.ready, self.size, self.foreign, self.chain, self.then, self.leaks = (
            ready,
            size,
            foreign,
            chain,
            then,
            leaks,
        )
        self.avoid: dict[str, str] = {}
        self.node = ""
        self.since = 0.0
        self.finish = 0.0


class Server:
    """Processor sharing: each of n scripts runs at speed ``min(1, slots / n)``.

    Kept in virtual time, the seconds of work each script has got since the start, so that an arrival or an end
    changes one number and not every script's remaining work.

    :ivar slots: how many scripts run at full speed
    :ivar count: how many scripts run
    :ivar version: changes whenever the next end does, which makes an event that was planned before it void.
    """

    __slots__ = ("_at", "_ends", "_virtual", "count", "slots", "version")

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.count = 0
        self.version = 0
        self._virtual = 0.0
        self._at = 0.0
        self._ends: list[tuple[float, str, Script]] = []

    def begin(self, now: float, script: Script) -> None:
        self._advance(now)
        self.count += 1
        script.finish = self._virtual + script.size
        heapq.heappush(self._ends, (script.finish, script.name, script))

    def end(self, now: float) -> Script:
        """The script whose end was due now."""
        self._advance(now)
        self.count -= 1
        return heapq.heappop(self._ends)[2]

    def interrupt(self, now: float, script: Script) -> None:
        """Stop a script in the middle; what it has done is lost."""
        self._advance(now)
        self.count -= 1
        self._ends.remove((script.finish, script.name, script))
        heapq.heapify(self._ends)

    def scripts(self) -> list[Script]:
        """What runs here."""
        return [script for _, _, script in self._ends]

    def next_end(self) -> float:
        """When the next script ends if nothing else happens."""
        if not self._ends:
            return float("inf")
        remaining = max(0.0, self._ends[0][0] - self._virtual)
        return self._at + remaining * max(1.0, self.count / self.slots)

    def _advance(self, now: float) -> None:
        self.version += 1
        if self.count:
            self._virtual += (now - self._at) * min(1.0, self.slots / self.count)
        self._at = now
