"""Nodes that fail are left out for a while; then one worker tries, for the whole fleet.

Three things keep a node out, and they are not the same (proxysql#4171 counts overload as failure, and users suffer):

* **failure**: refused, unreachable, cut off. The cool-down grows with each failure in a row and shrinks with quiet.
* **overload**: it took the connection and stayed silent, or said that it has too many sessions: a short pause.
* **shutdown**: it said itself that it is going: a pause in which it can go and come back.

The last two are a node's own word. Of a failure nobody knows at first whose it is: a host without a route, or with a
wrong name server, sees every node fail. So the host that has met it leaves the node out by itself, and all others only
once a second host has met it, too. Should more than half of the nodes be out for failures, then it is rather the
network that failed, or what is known is out of date: work is spread over all of them (Envoy's panic threshold, 50 % by
default; finagle's ``PanicMode``).

A node whose cool-down is over is not simply back: with nginx's ``fail_timeout`` up to 23 % of the requests went to a
dead server. One pick that will say what became of it gets it on trial; the others still leave it out until that trial
has succeeded, or its token has expired. Work on it that was begun after the last failure and is accepted, whoever's it
is, ends the ejection at once.
"""

from __future__ import annotations

from airflow_provider_impala_lb.core.state.model import Cause, Ejection, NodeState, Suspicion

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
SECOND_SECONDS = 60.0
"""Two hosts have met the same failure if no more time than this is between theirs."""
MOST_SUSPICIONS = 8
"""Of so many hosts it is known that they have met a failure of a node: the latest. Two are enough to eject it."""


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


def note_failure(node: NodeState, now: float, host: str, cause: Cause, reason: str, token: str) -> None:
    """A pick's node did not take the work. Failures at the same time count once: they are one event.

    :param node: changed.
    :param now: the store's clock, seconds since the epoch.
    :param host: that has met it.
    :param cause: what kind of refusal it was.
    :param reason: in words; 200 characters of it are kept.
    :param token: the pick's; if it was the trial's, the failure counts although the node is out already.
    """
    before = node.ejection
    on_trial = before is not None and before.trial == token
    if before is not None and not on_trial and now < max(before.until, before.trial_until):
        return  # else three workers that fail together would count as three (elastic-transport's pool does so)
    reason = reason[:200]
    if cause != "failure":
        pause = OVERLOAD_SECONDS if cause == "overload" else SHUTDOWN_SECONDS
        node.ejection = Ejection(cause=cause, reason=reason, until=now + pause, at=now, by=[host])
        return
    others = [name for name, other in node.suspicions.items() if name != host and 0 <= now - other.at <= SECOND_SECONDS]
    _suspect(node, now, host, reason)
    if not others and not on_trial:
        return
    node.failures = min(level(node, now) + 1, MOST_FAILURES)
    pause = cool_down(node.failures)
    node.quiet_since = now + pause  # while it is out it cannot fail: that is no quiet
    by = sorted({host, *others, *(before.by if before is not None and on_trial else ())})[:MOST_SUSPICIONS]
    node.ejection = Ejection(cause=cause, reason=reason, until=now + pause, at=now, by=by)


def _suspect(node: NodeState, now: float, host: str, reason: str) -> None:
    mine = node.suspicions.pop(host, None)
    if mine is not None and now < mine.until:
        failures, until = mine.failures, mine.until  # at the same time
    else:
        quiet = int(max(0.0, now - mine.until) // QUIET_SECONDS) if mine is not None else 0
        failures = min(max(0, mine.failures - quiet if mine is not None else 0) + 1, MOST_FAILURES)
        until = now + cool_down(failures)
    others = {name: other for name, other in node.suspicions.items() if now - other.until < LONGEST_COOL_DOWN}
    latest = sorted(others, key=lambda name: others[name].at)[-(MOST_SUSPICIONS - 1) :]
    node.suspicions = {name: others[name] for name in latest}
    node.suspicions[host] = Suspicion(failures, now, until, reason)


def note_success(node: NodeState, host: str, begun: float) -> None:
    """A session opened and its first statement was accepted. Ends what is held against the node, if that is older.

    :param node: changed.
    :param host: whose session it is; what another one has met by itself stays: its way there may be another.
    :param begun: when the pick was made (store's clock, seconds since the epoch).
    """
    if node.ejection is not None and node.ejection.at < begun:
        node.ejection = None
    mine = node.suspicions.get(host)
    if mine is not None and mine.at < begun:
        del node.suspicions[host]


def is_doubted(node: NodeState | None, host: str) -> bool:
    """Whether a success would change anything.

    :param node: which; None: nothing is known of it.
    :param host: that would tell.
    """
    return node is not None and (node.ejection is not None or host in node.suspicions)


def left_out(node: NodeState, now: float, host: str) -> str | None:
    """Why the node may not be picked now, or None. A node that is due for a trial may.

    :param node: which.
    :param now: the store's clock, seconds since the epoch.
    :param host: that would pick it.
    """
    ejection, mine = node.ejection, node.suspicions.get(host)
    if ejection is not None and now < ejection.until:
        said = f" by {', '.join(ejection.by)}" if ejection.by else ""
        return f"{ejection.reason} ({ejection.cause}, said{said}; left out for {ejection.until - now:.0f} s more)"
    if ejection is not None and ejection.trial and now < ejection.trial_until:
        return f"{ejection.reason} ({ejection.cause}, on trial)"
    if mine is not None and now < mine.until:
        return f"{mine.reason} (seen by this host alone, which leaves it out for {mine.until - now:.0f} s more)"
    return None


def has_failed(node: NodeState, now: float) -> bool:
    """Whether the node is out for all, and for failures.

    :param node: which.
    :param now: the store's clock, seconds since the epoch.
    """
    ejection = node.ejection
    return ejection is not None and ejection.cause == "failure" and now < max(ejection.until, ejection.trial_until)


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
