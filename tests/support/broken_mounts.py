"""What a mount may do wrong, as text of a program that stands for a host; and which processes there are."""

import contextlib
import pathlib

NO_LOCK = "fcntl.flock = lambda *_: None"
"""Locks exclude nobody. The program has imported fcntl."""
STALE_CACHE = """
class Cached(state_slots.StateSlots):
    known = None
    def _newest(self, descriptor):
        if self.known is None:
            self.known = super()._newest(descriptor)
        return self.known
    def save(self, descriptor, version, state):
        super().save(descriptor, version, state)
        self.known = (version, encode_head(state))
store.StateSlots = Cached
"""
"""A cache that serves what it read before: each process sees only its own writes. The program has imported
state_slots, store and encode_head."""


def commands():
    """The command lines of all processes there are."""
    for process in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
