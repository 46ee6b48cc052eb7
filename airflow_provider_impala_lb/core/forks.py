"""What a forked child must not take over: its parent's locks, which threads may hold that are not there, and leases."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class ForgetsParent(Protocol):
    """Begins anew in a child."""

    def forget_parent(self) -> None:
        """This process is a child: locks and threads were its parent's."""
        ...


_objects: weakref.WeakSet[ForgetsParent] = weakref.WeakSet()


def renew_in_children(each: ForgetsParent) -> None:
    """Let an object forget its parent's locks in each child that this process forks.

    :param each: kept for as long as somebody else has it.
    """
    _objects.add(each)


def _forget_parent() -> None:
    for each in list(_objects):
        each.forget_parent()


os.register_at_fork(after_in_child=_forget_parent)
