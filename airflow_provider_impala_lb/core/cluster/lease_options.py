"""What a script may want of its lease beside a node: how to wait for it, and what to be told of."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from airflow_provider_impala_lb.core.state.model import Attempt, LeftoverSession
from airflow_provider_impala_lb.errors import ConfigError


class QueueOptions(msgspec.Struct, frozen=True):
    """How to wait in the queue while every node is busy or full.

    :param wait: seconds to wait at most, since the ticket was drawn; None (default): the configuration's ``max_wait``.
        Then a busy node is taken, the one with the most headroom; a full one never is.
    :param ticket: the name of one's place in the queue, for who comes back to it, maybe as another process; None
        (default): the lease's id.
    :param asks_again: with ``ticket``: do not wait here; the place is kept for a caller who asks again after this many
        seconds. None (default): wait here.
    """

    wait: float | None = None
    ticket: str | None = None
    asks_again: float | None = None


class LeaseListener(msgspec.Struct, frozen=True):
    """Whom to tell what becomes of a lease, from another thread; but for ``on_left`` each at most once.

    :param on_move: gets the reason when the node is overloaded and the work shall go elsewhere. None (default): the
        work cannot be moved.
    :param on_overload: gets the reason when the node is overloaded and the work stays. None (default): nobody is told.
    :param on_fenced: a later attempt has taken over (`Fencing.fence_earlier`). None (default): nobody is told.
    :param on_left: gets what earlier attempts may have left running, by lease id, whenever the lease comes into the
        state: `Fencing.fence_earlier` may not have reached it; or the error that another run has work of this name.
        None (default): nobody is told.
    """

    on_move: Callable[[str], None] | None = None
    on_overload: Callable[[str], None] | None = None
    on_fenced: Callable[[], None] | None = None
    on_left: Callable[[dict[str, LeftoverSession], ConfigError | None], None] | None = None


class LeaseOptions(msgspec.Struct, frozen=True):
    """For `Picker.acquire`.

    :param queue: how to wait.
    :param listener: whom to tell.
    :param while_waiting: called several times a second; what it raises ends the waiting. None (default): nothing is
        called.
    :param announced_id: the lease's id, as announced by `Fencing.fence_earlier`; "" (default): it was not announced.
    :param attempt: as given to `Fencing.fence_earlier`; it may take several leases. None (default): not known.
    """

    queue: QueueOptions = QueueOptions()
    listener: LeaseListener = LeaseListener()
    while_waiting: Callable[[], None] | None = None
    announced_id: str = ""
    attempt: Attempt | None = None
