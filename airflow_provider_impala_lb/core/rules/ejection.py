"""Nodes that fail are left out for a while, by all workers together; then one worker tries, for the whole fleet.

Three things keep a node out, and they are not the same (proxysql#4171 counts overload as failure, and users suffer):

* **failure**: refused, unreachable, cut off. The cool-down grows with each failure in a row and shrinks with quiet.
* **overload**: it took the connection and stayed silent, or said that it has too many sessions: a short pause.
* **shutdown**: it said itself that it is going: a pause in which it can go and come back.

A node whose cool-down is over is not simply back: with nginx's ``fail_timeout`` up to 23 % of the requests went to a
dead server. One pick gets it on trial; the others still leave it out until that trial has succeeded, which it does
when a session has opened and its first statement was accepted, or its token has expired.
"""

from __future__ import annotations

from airflow_provider_impala_lb.core.state.model import Cause, Ejection, NodeState

FIRST_COOL_DOWN = 10.0
"""Seconds out after one failure."""
LONGEST_COOL_DOWN = 300.0
"""Seconds out after many failures in a row."""
MOST_FAILURES = 6
"""More are not counted: they would not make the cool-down longer, only its shrinking."""
QUIET_SECONDS = 120.0
"""After each such interval without a failure the next cool-down is half as long again (grpc's outlier detection)."""
OVERLOAD_SECONDS = 10.0
"""Seconds out for overload."""
SHUTDOWN_SECONDS = 60.0
"""Seconds out for a shutdown."""
TRIAL_GRACE = 5.0
"""Seconds that a trial lasts beyond the time to open a session."""


def level(node: NodeState, now: float) -> int:
    """Failures in a row, less one for each quiet interval since the last cool-down ended.

    :param node: whose.
    :param now: the store's clock, seconds since the epoch.
    """
    quiet = int(max(0.0, now - node.quiet_since) // QUIET_SECONDS)
    return max(0, node.failures - quiet)


def cool_down(failures: int) -> float:
    """Seconds out after so many failures in a row: ``min(10 * 2 ** (failures - 1), 300)``.

    :param failures: 1 or more.
    """
    return float(min(FIRST_COOL_DOWN * 2 ** (failures - 1), LONGEST_COOL_DOWN))


def note_failure(node: NodeState, now: float, cause: Cause, reason: str, token: str) -> None:
    """A pick's node did not take the work. Failures at the same time count once: they are one event.

    :param node: changed.
    :param now: the store's clock, seconds since the epoch.
    :param cause: what kind of refusal it was.
    :param reason: in words; 200 characters of it are kept.
    :param token: the pick's; if it was the trial's, the failure counts although the node is out already.
    """
    before = node.ejection
    on_trial = before is not None and before.trial == token
    if before is not None and not on_trial and now < max(before.until, before.trial_until):
        return  # else three workers that fail together would count as three (elastic-transport's pool does so)
    if cause == "failure":
        node.failures = min(level(node, now) + 1, MOST_FAILURES)
        pause = cool_down(node.failures)
        node.quiet_since = now + pause  # while it is out it cannot fail: that is no quiet
    else:
        pause = OVERLOAD_SECONDS if cause == "overload" else SHUTDOWN_SECONDS
    node.ejection = Ejection(cause=cause, reason=reason[:200], until=now + pause)


def note_success(node: NodeState, token: str) -> None:
    """A session opened and its first statement was accepted. Ends the node's trial, if this was it.

    Only the trial's success counts: another session may be older than the failure.

    :param node: changed.
    :param token: the pick's.
    """
    if node.ejection is not None and node.ejection.trial == token:
        node.ejection = None


def left_out(node: NodeState, now: float) -> str | None:
    """Why the node may not be picked now, or None. A node that is due for a trial may.

    :param node: which.
    :param now: the store's clock, seconds since the epoch.
    """
    ejection = node.ejection
    if ejection is None:
        return None
    if now < ejection.until:
        return f"{ejection.reason} ({ejection.cause}, left out for {ejection.until - now:.0f} s more)"
    if ejection.trial and now < ejection.trial_until:
        return f"{ejection.reason} ({ejection.cause}, on trial)"
    return None


def begin_trial(node: NodeState, now: float, token: str, open_timeout: float) -> bool:
    """Give the trial to this pick, for ``open_timeout + 5`` seconds.

    :param node: changed, if it is out.
    :param now: the store's clock, seconds since the epoch.
    :param token: the pick's.
    :param open_timeout: seconds that the opening of a session may take.
    :returns: whether the node was out, so that this pick is a trial.
    """
    ejection = node.ejection
    if ejection is None:
        return False
    ejection.trial, ejection.trial_until = token, now + open_timeout + TRIAL_GRACE
    return True
