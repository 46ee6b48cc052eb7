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
LONGEST_COOL_DOWN = 300.0
MOST_FAILURES = 6
"""More are not counted: they would not make the cool-down longer, only its shrinking."""
QUIET_SECONDS = 120.0
"""After each such interval without a failure the next cool-down is half as long again (grpc's outlier detection)."""
OVERLOAD_SECONDS = 10.0
SHUTDOWN_SECONDS = 60.0
TRIAL_GRACE = 5.0


def level(node: NodeState, now: float) -> int:
    """Failures in a row, less one for each quiet interval since the last cool-down ended."""
    quiet = int(max(0.0, now - node.quiet_since) // QUIET_SECONDS)
    return max(0, node.failures - quiet)


def cool_down(failures: int) -> float:
    """Seconds out after so many failures in a row: ``min(10 * 2 ** (failures - 1), 300)``."""
    return float(min(FIRST_COOL_DOWN * 2 ** (failures - 1), LONGEST_COOL_DOWN))


def note_failure(node: NodeState, now: float, cause: Cause, why: str, token: str) -> None:
    """A pick's node did not take the work. Failures at the same time count once: they are one event.

    :param token: the pick's; if it was the trial's, the failure counts although the node is out already.
    """
    out = node.ejection
    tried = out is not None and out.trial == token
    if out is not None and not tried and now < max(out.until, out.trial_until):
        return  # else three workers that fail together would count as three (elastic-transport's pool does so)
    if cause == "failure":
        node.failures = min(level(node, now) + 1, MOST_FAILURES)
        pause = cool_down(node.failures)
        node.quiet_since = now + pause  # while it is out it cannot fail: that is no quiet
    else:
        pause = OVERLOAD_SECONDS if cause == "overload" else SHUTDOWN_SECONDS
    node.ejection = Ejection(cause=cause, why=why[:200], until=now + pause)


def note_success(node: NodeState, token: str) -> None:
    """A session opened and its first statement was accepted. Only the trial's word counts: another session may be
    older than the failure."""
    if node.ejection is not None and node.ejection.trial == token:
        node.ejection = None


def left_out(node: NodeState, now: float) -> str | None:
    """Why the node may not be picked now, or None. A node that is due for a trial may."""
    out = node.ejection
    if out is None:
        return None
    if now < out.until:
        return f"{out.why} ({out.cause}, left out for {out.until - now:.0f} s more)"
    if out.trial and now < out.trial_until:
        return f"{out.why} ({out.cause}, on trial)"
    return None


def begin_trial(node: NodeState, now: float, token: str, open_timeout: float) -> bool:
    """Give the trial to this pick, for ``open_timeout + 5`` seconds. True if the node was out, so that it is one."""
    out = node.ejection
    if out is None:
        return False
    out.trial, out.trial_until = token, now + open_timeout + TRIAL_GRACE
    return True
