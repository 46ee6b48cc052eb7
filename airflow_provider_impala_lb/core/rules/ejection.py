"""Nodes that fail are left out for a while; then one worker tries, for all.

Three things keep a node out, and they are not the same (proxysql#4171 counts overload as failure, and users suffer):

* **failure**: refused, unreachable, cut off. The cool-down grows with each failure in a row and shrinks with quiet.
* **overload**: it took the connection and stayed silent, or said that it has too many sessions: a short pause.
* **shutdown**: it said itself that it is going: a pause in which it can go and come back.

Only the last is a node's own word. Of the others nobody knows at first whose fault it is: a host without a route, or
behind a firewall, sees every node fail. So a host that meets one leaves the node out **by itself** (`Suspicion`), and
**all** do (`Ejection`) once there is evidence, `_witnesses`:

* a second host has met it within a minute; where no second one is known, the only one's word is enough;
* the word of a host for which more than half of the nodes fail does not count: it is rather that host's fault;
* nor that of one who has not reached the node lately, while others are seen to: of a split network both sides are
  right, each for itself.

At most half of the nodes are out for all by failure or overload (Envoy's ``max_ejection_percent``, ejectHost of
outlier_detection_impl.cc). Where more than half fail for a host, it doubts what it knows, as in Envoy's panic mode
(``healthy_panic_threshold``, 50 %) and finagle's ``PanicMode``. Those use every node then, dead or not. Here each one
is tried again 5 s after its last failure, by one pick at a time, and its cool-down does not grow: a network that is
back is seen at once, and what is dead costs each host one try in 5 s.

A node whose cool-down is over is not simply back: with nginx's ``fail_timeout`` up to 23 % of the requests went to a
dead server. One pick that will say what became of it gets it **on trial**; the others still leave it out until that
trial has succeeded, or its token has expired. Work on it that was begun after the last failure and is accepted,
whoever's it is, ends the ejection at once; what a host has met by itself, only its own.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from airflow_provider_impala_lb.core.config.model import Config
from airflow_provider_impala_lb.core.state.model import Cause, Ejection, NodeState, Suspicion
from airflow_provider_impala_lb.core.state.state import State

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
LONGEST_TRIAL = 60.0
"""Seconds that a trial lasts at most, however long a host may take to open a session: the others wait for it."""
UNTRIED_SECONDS = 300.0
"""A node that is due for a trial is back after so long without one: maybe nobody picks who could say what became of
it."""
EVIDENCE_SECONDS = 60.0
"""For so long a host's word counts: that a node failed it, and that it works."""
DOUBT_SECONDS = 5.0
"""Seconds out after a failure where more than half of the nodes fail."""
MOST_SUSPICIONS = 16
"""Of so many hosts it is known that they have met a failure of a node: the latest. Two are enough to eject it."""

_REASON = 120


class Failure(NamedTuple):
    """What a pick met that its node did not take.

    :ivar host: that has met it.
    :ivar cause: what kind of refusal it was.
    :ivar reason: in words; 120 characters of it are kept.
    :ivar token: the pick's: is it a trial?
    """

    host: str
    cause: Cause
    reason: str
    token: str


def level(node: NodeState, now: float) -> int:
    """Failures in a row, less one for each quiet interval since the last cool-down ended.

    :param node: whose.
    :param now: the store's clock, seconds since the epoch.
    """
    return _after_quiet(node.failures, now - node.quiet_since)


def _after_quiet(failures: int, seconds: float) -> int:
    return max(0, failures - int(max(0.0, seconds) // QUIET_SECONDS))


def cool_down(failures: int) -> float:
    """Seconds out after so many failures in a row: ``min(10 * 2 ** (failures - 1), 300)``.

    :param failures: 1 or more.
    """
    return float(min(FIRST_COOL_DOWN * 2 ** (failures - 1), LONGEST_COOL_DOWN))


def note_failure(config: Config, state: State, now: float, address: str, failure: Failure) -> str:
    """A pick's node did not take the work. Failures at the same time count once: they are one event.

    :param config: the nodes.
    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param address: which node, ``host:port``.
    :param failure: what was met there.
    :returns: what follows from it, in words.
    """
    node, host, cause = state.node(address), failure.host, failure.cause
    reason = failure.reason[:_REASON]
    if cause == "shutdown":
        node.ejection = Ejection(cause, reason, now + SHUTDOWN_SECONDS, at=now, by=[host])
        return f"all hosts leave it out for {SHUTDOWN_SECONDS:.0f} s"
    _suspect(config, state, now, node, failure)
    before = node.ejection
    if before is not None:
        if before.trial == failure.token:
            before.trial, before.trial_until = "", 0.0  # another host is to try it
        elif now < max(before.until, before.trial_until):
            return "all hosts leave it out already"  # workers that fail together would count several times
    by = _witnesses(config, state, now, node, host)
    others = (state.nodes.get(name) for name in config.addresses if name != address)  # not those that are gone
    others_out = sum(other is not None and is_out(other, now) for other in others)
    seconds = node.suspicions[host].until - now
    if not by or 2 * (others_out + 1) > len(config.nodes):
        return (
            f"this host leaves it out for {seconds:.0f} s; all do if there is evidence that it is not this host's fault"
        )
    if cause == "failure":
        node.failures = min(level(node, now) + 1, MOST_FAILURES)
        seconds = cool_down(node.failures)
        node.quiet_since = now + seconds  # while it is out it cannot fail: that is no quiet
    else:
        seconds = OVERLOAD_SECONDS
    node.ejection = Ejection(cause, reason, now + seconds, at=now, by=by)
    return f"all hosts leave it out for {seconds:.0f} s, said by {', '.join(by)}"


def _suspect(config: Config, state: State, now: float, node: NodeState, failure: Failure) -> None:
    mine = node.suspicions.pop(failure.host, None)
    failures, until = (mine.failures, mine.until) if mine is not None else (0, 0.0)
    if mine is None or mine.ended or now >= until or mine.trial == failure.token:  # else at the same time
        failures = _after_quiet(failures, now - until)
        if failure.cause == "failure" and (failures == 0 or not sees_most_fail(config, state, failure.host)):
            failures = min(failures + 1, MOST_FAILURES)
        until = now + (cool_down(failures) if failure.cause == "failure" else OVERLOAD_SECONDS)
    if len(node.suspicions) >= MOST_SUSPICIONS:
        del node.suspicions[min(node.suspicions, key=lambda name: node.suspicions[name].at)]
    reached = mine is not None and (mine.ended or mine.reached)
    node.suspicions[failure.host] = Suspicion(
        failure.cause, failures, now, until, failure.reason[:_REASON], reached=reached
    )


def _witnesses(config: Config, state: State, now: float, node: NodeState, host: str) -> list[str]:
    """The hosts whose word is evidence that the node fails, and not one of them; empty: there is not enough."""
    works = abs(now - node.worked) <= EVIDENCE_SECONDS
    names = [
        name
        for name, each in node.suspicions.items()
        if not each.ended
        and now - each.at <= EVIDENCE_SECONDS
        and (each.reached or not works)
        and not sees_most_fail(config, state, name)
    ]
    enough = 1 if set(state.hosts) <= {host} else 2
    return sorted(names) if host in names and len(names) >= enough else []


def sees_most_fail(config: Config, state: State, host: str) -> bool:
    """Whether more than half of the nodes fail for this host, so that its word does not count. None that failed it
    counts as working before it has worked: a host without work has not mended its network.

    :param config: the nodes.
    :param state: what hosts have met.
    :param host: which.
    """
    records = (state.nodes.get(address) for address in config.addresses)
    mine = (record.suspicions.get(host) for record in records if record is not None)
    return 2 * sum(each is not None and not each.ended for each in mine) > len(config.nodes)


def _holds(suspicion: Suspicion, now: float) -> bool:
    return not suspicion.ended and (now < suspicion.until or now - suspicion.at <= EVIDENCE_SECONDS)


def note_success(state: State, now: float, address: str, host: str, begun: float) -> None:
    """A session opened and its first statement was accepted. Ends what is held against the node, if that is older.

    A node that is back makes the others due: what they failed of may be over, too (a switch, a power supply), and that
    costs one trial each.

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param address: which node, ``host:port``.
    :param host: whose session it is; what another one has met by itself stays: its way there may be another.
    :param begun: when the pick was made (store's clock, seconds since the epoch).
    """
    node, is_back = state.node(address), False
    if node.ejection is not None and node.ejection.at < begun:
        node.ejection, is_back = None, True
    if any(name != host and each.at < begun for name, each in node.suspicions.items()):
        node.worked = max(node.worked, begun)
    mine = node.suspicions.get(host)
    if mine is not None and not mine.ended and mine.at < begun:
        mine.ended, is_back = True, True
        mine.until = min(mine.until, now)
    for other in state.nodes.values() if is_back else ():
        for entry in (other.ejection, other.suspicions.get(host)):
            if entry is not None and entry.cause == "failure":
                entry.until = min(entry.until, now)


def forget_old(node: NodeState, now: float, *, one_clock: bool) -> None:
    """Forget what hosts have met long ago, and what lasts longer than anything may: the clock was set back since.

    :param node: changed.
    :param now: the store's clock, seconds since the epoch.
    :param one_clock: it is the same on every host; else what a host has met by itself is by its own.
    """
    if node.ejection is not None and node.ejection.until - now > LONGEST_COOL_DOWN:
        node.ejection = None
    latest = now + LONGEST_COOL_DOWN if one_clock else inf
    old = [name for name, each in node.suspicions.items() if not now - UNTRIED_SECONDS < each.until <= latest]
    for name in old:
        del node.suspicions[name]


def is_doubted(node: NodeState | None, host: str) -> bool:
    """Whether a success would change anything.

    :param node: which; None: nothing is known of it.
    :param host: that would tell.
    """
    if node is None:
        return False
    return node.ejection is not None or any(
        not each.ended and (name == host or each.at > node.worked) for name, each in node.suspicions.items()
    )


def fails(node: NodeState, now: float, host: str) -> bool:
    """Whether the node fails, as far as this host knows: it has not worked since, though its cool-down may be over.

    :param node: which.
    :param now: the store's clock, seconds since the epoch.
    :param host: that would pick it.
    """
    mine = node.suspicions.get(host)
    return (mine is not None and _holds(mine, now)) or is_out(node, now)


def is_out(node: NodeState, now: float) -> bool:
    """Whether the node is out for all, by what hosts have said of it.

    :param node: which.
    :param now: the store's clock, seconds since the epoch.
    """
    ejection = node.ejection
    return ejection is not None and ejection.cause != "shutdown" and now < ejection.until + UNTRIED_SECONDS


def left_out(node: NodeState, now: float, host: str, *, reports: bool = True, doubt: bool = False) -> str | None:
    """Why the node may not be picked now, or None. A node that is due for a trial may, by who can tell how that ends.

    :param node: which.
    :param now: the store's clock, seconds since the epoch.
    :param host: that would pick it.
    :param reports: the pick will say what became of it; default True.
    :param doubt: more than half of the nodes fail for this host; default False.
    """
    entry = node.ejection
    if entry is not None and (when := _not_yet(entry, now, reports=reports, doubt=doubt)) is not None:
        said = f", said by {', '.join(entry.by)}" if entry.by else ""
        return f"{entry.reason} ({entry.cause}{said}; {when})"
    mine = node.suspicions.get(host)
    if mine is not None and not mine.ended and (when := _not_yet(mine, now, reports=reports, doubt=doubt)) is not None:
        return f"{mine.reason} ({mine.cause}, met by this host, {host}, alone; {when})"
    return None


def _not_yet(entry: Ejection | Suspicion, now: float, *, reports: bool, doubt: bool) -> str | None:
    until = entry.until
    if doubt and entry.cause != "shutdown":
        until = min(until, entry.at + DOUBT_SECONDS)
    if now < until:
        return f"left out for {until - now:.0f} s more"
    if entry.trial and now < entry.trial_until:
        return "on trial"
    if not reports and now < until + UNTRIED_SECONDS:
        return "due for a trial by a pick that says what became of it"
    return None


def begin_trial(node: NodeState, now: float, host: str, token: str, open_timeout: float) -> bool:
    """Give the trial to this pick, for ``open_timeout + 5`` seconds, 60 at most.

    :param node: changed, if it is out and due.
    :param now: the store's clock, seconds since the epoch.
    :param host: that has picked it.
    :param token: the pick's.
    :param open_timeout: seconds that the opening of a session may take.
    :returns: whether the node was out, so that this pick is a trial.
    """
    mine = node.suspicions.get(host)
    on_trial = [each for each in (node.ejection, mine) if each is not None and not getattr(each, "ended", False)]
    for entry in on_trial:
        entry.trial, entry.trial_until = token, now + min(open_timeout + TRIAL_GRACE, LONGEST_TRIAL)
    return bool(on_trial)


def end_trial(node: NodeState, token: str) -> None:
    """The pick has not come as far as the node, and says nothing of it: another one may try.

    :param node: changed, if this was its trial.
    :param token: the pick's.
    """
    for entry in (node.ejection, *node.suspicions.values()):
        if entry is not None and entry.trial == token:
            entry.trial, entry.trial_until = "", 0.0
