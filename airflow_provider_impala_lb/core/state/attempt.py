"""One try of some work, and how it is told from the others of the same work."""

from __future__ import annotations

import msgspec


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """A try.

    :param number: from 1. :param began: ``time.time()`` of its host.
    :param round: the same for a try and its retries, another one when the work is asked for anew; "": not known.
    """

    number: int
    began: float
    round: str = ""

    def is_before(self, other: Attempt) -> bool:
        """Whether this try has been followed by the other. By number and time, both: a run that is deleted and made
        again under its old name counts its tries from 1 again, and the clocks of two hosts may differ."""
        return self.number < other.number and self.began < other.began

    def repeats(self, other: Attempt) -> bool:
        """Whether this is a retry of the other, rather than the same work asked for anew."""
        return self.round != "" and self.round == other.round and other.is_before(self)
