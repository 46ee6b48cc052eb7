"""One transaction's decision: who is picked, or that the caller has to wait. Pure.

The order of work: end what is past its time (`expiry`), keep what should stay where it is, admit, choose, note.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import msgspec

from airflow_provider_impala_lb.core.config.model import Config, Node
from airflow_provider_impala_lb.core.rules import queue
from airflow_provider_impala_lb.core.rules.admission import Admitted, Caller, LeftOut, admit, none_available
from airflow_provider_impala_lb.core.rules.ejection import begin_trial, is_doubted
from airflow_provider_impala_lb.core.rules.policy import Scores, choose, most_headroom, spread
from airflow_provider_impala_lb.core.rules.retention import check_room
from airflow_provider_impala_lb.core.state.model import SESSION_SECONDS, Attempt, Lease, SessionRecord, Ticket
from airflow_provider_impala_lb.core.state.state import State

_SHOWN = 4
_NOT_LEFT = LeftOut("tried", "")
_SESSION_SLACK = 3600.0
"""A session record's expiry is written anew only when it has come closer by this: not at each use."""


class Request(msgspec.Struct):
    """What a caller asks for.

    :param token: names the pick; the lease's id, if it has one.
    :param lease: to be taken on the node that is picked; None: a pick without one.
    :param session_key: picks with the same key stay on one node; None: it has none.
    :param prefer: a node (``host:port``) to keep if it may take work; None: any.
    :param excluded: nodes not to pick, and why.
    :param may_wait: a busy or full cluster gives it a place in the queue instead of a node.
    :param ticket: its place in the queue, if it is to have one.
    :param lease_seconds: how long the lease lives without a renewal.
    :param announced: the lease's id was noted when its attempt began, see `supersession.announce`.
    :param attempt: which attempt it is; None: not known.
    :param known: what a mirror knows of the session key, used if the state knows nothing.
    :param caller: who asks.
    :param spread: choose by `policy.spread`, whatever the configuration's policy is.
    :param renew: also renew its ticket, if that is not among the first of the queue.
    :param resent: what became of an earlier question is not known: the state may have its lease or ticket already.
    """

    token: str
    lease: Lease | None = None
    session_key: str | None = None
    prefer: str | None = None
    excluded: Mapping[str, str] = {}
    may_wait: bool = False
    ticket: Ticket | None = None
    lease_seconds: float = 0.0
    announced: bool = False
    attempt: Attempt | None = None
    known: SessionRecord | None = None
    caller: Caller = Caller()
    spread: bool = False
    renew: bool = True
    resent: bool = False


class Placed(msgspec.Struct):
    """A node, and what spoke for it.

    :param node: ``host:port``.
    :param reason: what spoke for it; with ``scores`` the policy's name.
    :param left_out: why each node that is no candidate is none, by ``host:port``.
    :param scores: what spoke for each candidate; None: there was nothing to choose.
    :param trial: this pick tries a node that was out, for the whole fleet.
    :param doubted: something is held against the node, and whoever works there is to say if it takes the work.
    :param session: the record of the session key, with the data to replay.
    :param remarks: what else is to be known of the pick.
    """

    node: str
    reason: str
    left_out: dict[str, LeftOut]
    scores: Scores | None = None
    trial: bool = False
    doubted: bool = False
    session: SessionRecord | None = None
    remarks: tuple[str, ...] = ()

    @property
    def explanation(self) -> str:
        """The reason, the other candidates with their scores, and who was left out for what."""
        text = self.reason
        if self.scores:
            scores = self.scores()
            others = [f"{name} {score}" for name, score in scores.items() if name != self.node]
            more = f", {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
            text += f"{scores[self.node]}, best of {len(scores)}"
            text += f" ({', '.join(others[:_SHOWN])}{more})" if others else ""
        text += "".join(f"; {remark}" for remark in self.remarks)
        if self.left_out:
            text += "; left out: " + ", ".join(f"{name} ({entry.reason})" for name, entry in self.left_out.items())
        return text + (" (on trial)" if self.trial else "")


class Wait(msgspec.Struct):
    """No node now: everyone who could take it is busy or full.

    :param position: in the queue, from 1.
    :param waited: seconds since the ticket was drawn.
    :param left_out: why each node is no candidate, by ``host:port``.
    :param ticket: as it stands in the queue: its owner brings it along when he asks again.
    :param late: a slot had been kept for its owner, who came back when it was not any more.
    """

    position: int
    waited: float
    left_out: dict[str, LeftOut]
    ticket: Ticket
    late: bool = False


def place(config: Config, state: State, now: float, request: Request, rng: random.Random) -> Placed | Wait:
    """Keep what should stay, admit, choose, note.

    :param config: nodes, limits and policy.
    :param state: changed: the lease, the queue, the counters.
    :param now: the store's clock, seconds since the epoch.
    :param request: its lease and ticket are changed.
    :param rng: for the policies that draw by lot.
    :raises NoNodeAvailable: nobody may take it, and there is nothing to wait for.
    """
    lease, key = request.lease, request.session_key
    if lease is not None:
        check_room(state)
    ticket = request.ticket
    if ticket is not None and (there := queue.find(state, ticket, drawn=request.resent)) is not None:
        ticket.number, ticket.since = there.number, there.since
    avoided = state.avoid.get(lease.owner) if lease and lease.owner and len(state.avoid) else None
    # A node that is asked for by name is not avoided: sticking is worth more.
    avoid = avoided.node if avoided and avoided.node != request.prefer else ""
    may_try = True
    admitted = admit(config, state, now, request.excluded, avoid, request.caller)
    record = (state.sessions.get(key) or request.known) if key else None
    candidates = _with_capacity(config, state, now, admitted, request)
    remarks: list[str] = []
    scores: Scores | None = None

    want = request.prefer or (record.node if record and not record.unplaced_reason else None)
    if want is not None and any(node.address == want for node in candidates):
        node = want
        reason = "asked for by name" if request.prefer else f"session key {key!r} is on it"
    elif want is not None and request.may_wait and want in admitted.left_out and admitted.left_out[want].kind == "full":
        return _wait(state, now, request, admitted, only=want)
    else:
        if record is not None and not request.prefer:
            left = admitted.left_out.get(record.node)
            lost = record.unplaced_reason or (left.reason if left else "no longer a node of the configuration")
            remarks.append(f"session key {key!r} was on {record.node} ({lost})")
        if candidates:
            if request.spread:
                best, scores = spread(config, candidates, state, now, rng)
                node, reason = best.address, "spread: "
            else:
                best, scores = choose(config.policy, config, candidates, state, now, rng)
                node, reason = best.address, f"{config.policy}: "
            state.head.last = node
        else:
            found = _without_candidates(config, state, now, request, admitted, rng)
            if isinstance(found, Wait):
                return found
            node, reason = found
            may_try = False
    if admitted.doubt:
        remarks.append("more than half of the nodes fail for this host, so they are tried often")
    placed = Placed(node, reason, admitted.left_out, scores, remarks=tuple(remarks))
    _note(config, state, now, request, placed, record)
    if may_try and request.caller.reports:
        host, timeout = request.caller.host, config.session.open_timeout
        placed.trial = begin_trial(state.node(node), now, host, request.token, timeout)
    return placed


def _with_capacity(config: Config, state: State, now: float, admitted: Admitted, request: Request) -> Sequence[Node]:
    """The candidates that can take one more lease; the others are noted as full. With ``load: auto`` nobody waits for
    headroom: if none can, the busy ones that can. A pick without a lease takes no capacity, so it may go to a full node
    if all are."""
    candidates = admitted.candidates
    if not config.has_lease_limit:
        return candidates
    others: list[Node] = []
    if config.max_leases is not None and state.head.waiting:
        others = [node for node in config.nodes if _others_may_use(state, admitted, node.address)]
    spared = admitted.busy if config.load_is_auto else []
    able = queue.nodes_with_capacity(config, state, now, [*candidates, *spared], request.ticket, others=others)
    if request.lease is None and not able:
        return candidates
    addresses = {node.address for node in able}
    ready = [node for node in candidates if node.address in addresses]
    for node in candidates if ready else [*candidates, *spared]:
        if node.address in addresses:
            admitted.left_out.pop(node.address, None)
        else:
            admitted.left_out[node.address] = LeftOut("full", queue.fullness(config, state, now, node))
    return ready or able


def _others_may_use(state: State, admitted: Admitted, address: str) -> bool:
    """Whether a node that he cannot use may be one for those who came before: they have not met what he has."""
    left, record = admitted.left_out.get(address), state.nodes.get(address)
    if left is None or left.kind not in ("tried", "failed this task", "full"):
        return False
    return record is None or not (record.drained or record.ejection)


def _without_candidates(
    config: Config, state: State, now: float, request: Request, admitted: Admitted, rng: random.Random
) -> tuple[str, str] | Wait:
    """Wait, if that can help; else the best of the busy ones; else the one that failed this task, while the others are
    full; else one that is out. A node comes with its reason."""
    left_out = admitted.left_out
    full = any(left.kind == "full" for left in left_out.values())
    if request.may_wait and (admitted.busy or full):
        return _wait(state, now, request, admitted)
    if busy := _able(config, state, now, admitted, request, admitted.busy):
        best = most_headroom(busy, state, now, config.report_seconds)
        del left_out[best.address]
        whole = "the others are full, and of the busy ones it" if full else "all are busy, and it"
        return best.address, f"{whole} has the most headroom"
    failed = [node for node in config.nodes if left_out.get(node.address, _NOT_LEFT).kind == "failed this task"]
    if avoided := _able(config, state, now, admitted, request, failed):
        del left_out[avoided[0].address]
        return avoided[0].address, "the others are full, though it failed this task last time"
    if resting := _able(config, state, now, admitted, request, admitted.resting):
        # What we know of them may be out of date (finagle's panic mode, pgjdbc): any of them, not all work on one.
        drawn, _ = spread(config, resting, state, now, rng)
        del left_out[drawn.address]
        return drawn.address, f"{'the others are full' if full else 'all are out'}, and it was drawn"
    for node in admitted.resting:  # they run as much as they may, or all together do: that ends
        reason = f"{left_out[node.address].reason}; {queue.fullness(config, state, now, node)}"
        left_out[node.address] = LeftOut("full", reason)
    # One that shuts down is there again soon, as a rule; one that an operator has drained is not to be waited for.
    stopping = any(left.kind == "stopping" for left in left_out.values())
    if request.may_wait and (admitted.resting or stopping):
        return _wait(state, now, request, admitted)
    raise none_available(config, left_out)


def _able(
    config: Config, state: State, now: float, admitted: Admitted, request: Request, nodes: Sequence[Node]
) -> Sequence[Node]:
    """Those that can take one more lease, if the request has one."""
    if request.lease is None or not config.has_lease_limit or not nodes:
        return nodes
    others = [node for node in config.nodes if _others_may_use(state, admitted, node.address)]
    return queue.nodes_with_capacity(config, state, now, nodes, request.ticket, others=others)


def _wait(state: State, now: float, request: Request, admitted: Admitted, only: str = "") -> Wait:
    assert request.ticket is not None, "who may wait brings a ticket"
    if not request.ticket.number:
        check_room(state, ticket=True)
    excluded = [] if only else list(request.excluded)
    mine = msgspec.structs.replace(request.ticket, only=only, exclude=excluded)
    late = queue.came_late(state, mine)
    ticket, position = queue.enqueue(state, now, mine, renew=request.renew)
    return Wait(position, now - ticket.since, admitted.left_out, ticket, late)


def _note(
    config: Config, state: State, now: float, request: Request, placed: Placed, record: SessionRecord | None
) -> None:
    """The lease, the session record, the counters."""
    address, lease, key = placed.node, request.lease, request.session_key
    node = state.node(address)
    node.picks, node.used = node.picks + 1, int(now)
    placed.doubted = is_doubted(node, request.caller.host)
    if request.ticket is not None and request.ticket.number:
        queue.dequeue(state, request.ticket.id)
    if lease is None:
        node.count_unleased(now)
    else:
        lease.node, lease.taken, lease.expires = address, now, now + request.lease_seconds
        state.lease(lease)
    if key:
        ends = now + SESSION_SECONDS
        if record is None or record.node != address or record.unplaced_reason or record.expires < ends - _SESSION_SLACK:
            record = record or SessionRecord(node=address, expires=ends)
            record.node, record.unplaced_reason, record.expires = address, "", ends
            state.sessions.put(key, record, ends)
        placed.session = record
