"""Who waits for a node, and whose turn it is: ``max_leases`` is hard, and those who came first go first.

A ticket stands in the state, so that the queue is one for all hosts. Whoever is behind somebody who could use a free
slot leaves it to him. The first of the queue stand in the head, which every transaction reads; the others are records
that are read only when those run out, so a question costs the same however many wait. Nobody has to ask to keep a
place: he looks at the head without the lock (`core.cluster.waiting`), and asks when it says that he may go.

A dead owner must not block the rest. A free slot is kept for a ticket for some seconds, then the next one has it, too;
whoever comes late has still his place, and takes the first slot that is free then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf

import msgspec

from airflow_provider_impala_lb.core.config.model import Config, Node
from airflow_provider_impala_lb.core.state.model import Ticket
from airflow_provider_impala_lb.core.state.state import State

FIRST = 32
"""So many that wait for any node stand in the head, and as many that wait for the same one."""
CALL_SECONDS = 5.0
"""A free slot is kept so long for one who waits in place, and looks once a second when it may be his."""
LOST_SECONDS = 60.0
"""One who waits in place and has not taken a slot that was kept for him for so long has died; so have all on a host
that has noted nothing for so long, since somebody of those who wait there asks at least every `LONGEST_PAUSE`."""
ASK_SECONDS = 300.0
"""One who waits in place asks under the lock at least this often."""
LIFE_SECONDS = 3 * ASK_SECONDS
"""The ticket of one who waits in place lapses so long after he asked last, unless a slot is kept for it."""
AWAY_SECONDS = 7 * 24 * 3600.0
"""One who comes back as another process finds his place for so long (as long as Airflow's sensors wait by default)."""
MOST_AWAY = 1000
"""More are not remembered, the oldest go: their owners may be gone for good."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.2, 30.0
"""Seconds between two looks of the first in the queue, and of those far behind."""
_GRACE = 5.0


def pause(position: int, slots: float, rate: float = 0.0) -> float:
    """Seconds until one who waits here looks again.

    ``(position - 1) / slots`` seconds: nobody's turn comes before as many slots are free, and scripts run for seconds;
    half the time until his turn, ``position / rate / 2``, where the queue has been seen to move faster. At least
    ``min(0.2 * position, 0.5)``, at most 30.

    :param position: in the queue, from 1.
    :param slots: how many scripts may run at once.
    :param rate: how many places the queue moved on in a second, as last seen; default 0: not at all.
    """
    turn = (position - 1) / slots
    if rate > 0:
        turn = min(turn, position / rate / 2)
    return min(max(turn, min(SHORTEST_PAUSE * position, 0.5)), LONGEST_PAUSE)


def find(state: State, ticket: Ticket, *, drawn: bool = False) -> Ticket | None:
    """The ticket as it stands in the queue, or None if it does not.

    :param state: the queue.
    :param ticket: one's own. The records are read only for one that another process may have drawn.
    :param drawn: it may have been drawn although nobody was told its number; default False.
    """
    for each in state.head.waiting:
        if each.id == ticket.id:
            return each
    return state.tickets.get(ticket.id) if ticket.asks_again or drawn else None


def is_there(state: State, ticket: Ticket) -> bool:
    """Whether a ticket still has its place, as far as the head says.

    :param state: of which only the head need be known.
    :param ticket: with its number.
    """
    if any(each.id == ticket.id for each in state.head.waiting):
        return True
    return state.head.behind.get(ticket.only, 0) > 0 and ticket.number > _last_first(state, ticket.only)


def position(state: State, ticket: Ticket) -> int:
    """The place in the queue, from 1; of one that is not among the first an estimate.

    :param state: of which only the head need be known.
    :param ticket: with its number.
    """
    head = state.head
    before = sum(each.number < ticket.number for each in head.waiting)
    behind = sum(head.behind.values())
    last = _last_first(state, "") or head.drawn - behind
    if not behind or ticket.number <= last:
        return before + 1
    share = (ticket.number - last) / max(1, head.drawn - last)
    return before + max(1, round(share * behind))


def enqueue(state: State, now: float, ticket: Ticket, *, renew: bool = True) -> tuple[Ticket, int]:
    """Take a place at the end of the queue, or keep one's own.

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param ticket: as its owner has it: with a number, if he has got one already. Not changed.
    :param renew: with False a ticket that is not among the first is not looked for, and lapses as it would have;
        default True.
    :returns: the ticket as it stands in the queue now, and the position, from 1.
    """
    head = state.head
    if ticket.number and not renew and ticket.number > _last_first(state, ticket.only) and is_there(state, ticket):
        return ticket, position(state, ticket)
    there = find(state, ticket, drawn=bool(ticket.number))
    mine = msgspec.structs.replace(ticket, until=_until(ticket, now), called=_called(there, now), away=False)
    if there is not None:
        mine.since, mine.number = there.since, there.number
    elif not mine.number:
        head.drawn += 1
        mine.since, mine.number = now, head.drawn
    head.drawn = max(head.drawn, mine.number)  # after a loss of the state its owner knows more than that
    was_first = there is not None and any(each is there for each in head.waiting)
    if there is not None:
        same = there.only == mine.only and there.exclude == mine.exclude and there.holder == mine.holder
        same = same and there.asks_again == mine.asks_again and there.called == mine.called
        if same and there.until - now > (mine.until - now) / 2:
            return there, position(state, there)  # nothing to write: a question costs no more than a look
        dequeue(state, ticket.id)
    last, behind = _last_first(state, mine.only), head.behind.get(mine.only, 0)
    firsts = sum(each.only == mine.only for each in head.waiting)
    if was_first or mine.number < last or (not behind and firsts < FIRST):
        _add_first(state, mine)
        if firsts > 2 * FIRST:  # those who come again after a loss of the state, in any order
            _put_behind(state, [each for each in head.waiting if each.only == mine.only][FIRST:], now)
    else:
        _put_behind(state, [mine], now)
    return mine, position(state, mine)


def dequeue(state: State, ticket_id: str) -> None:
    """Take a ticket out of the queue, if it is there.

    :param state: changed.
    :param ticket_id: its id.
    """
    head = state.head
    others = [ticket for ticket in head.waiting if ticket.id != ticket_id]
    if len(others) < len(head.waiting):
        head.waiting = others
    elif (ticket := state.tickets.drop(ticket_id)) is not None and not ticket.away:
        head.behind[ticket.only] = max(0, head.behind.get(ticket.only, 0) - 1)


def came_late(state: State, ticket: Ticket) -> bool:
    """Whether a slot was kept for one who comes back as another process, and he came when it was not any more.

    :param state: the queue, before he is in it again.
    :param ticket: his own.
    """
    there = state.tickets.get(ticket.id) if ticket.asks_again else None
    return there is not None and there.away and there.called > 0


def nodes_with_capacity(
    config: Config,
    state: State,
    now: float,
    nodes: Sequence[Node],
    ticket: Ticket | None = None,
    *,
    others: Sequence[Node] = (),
) -> list[Node]:
    """Those of some nodes that can take one more lease once all who are before this ticket have got theirs.

    :param config: the limits.
    :param state: the leases, and the queue; changed: for whom a slot is kept.
    :param now: the store's clock, seconds since the epoch.
    :param nodes: which nodes to look at.
    :param ticket: one's own, with its number if it has one; None (default) for who has none, and so comes last.
    :param others: nodes that this ticket cannot use and those before it can: they have a part of the cluster's limit;
        default none.
    """
    if state.head.is_incomplete(now):
        return []
    number = ticket.number if ticket is not None and ticket.number else inf
    while True:
        capacity = {node.address: _capacity(config, state, node) for node in (*nodes, *others)}
        in_all = inf
        if config.max_leases is not None:
            in_all = config.max_leases - sum(record.leases for record in state.nodes.values())
        in_all = _kept_for_others(state, now, number, capacity, in_all)
        free = min(in_all, sum(capacity[node.address] for node in nodes if capacity[node.address] > 0))
        if free <= 0:
            return []
        hidden = [] if free == inf else _hidden(state, capacity, number)
        if not hidden:
            return [node for node in nodes if capacity[node.address] > 0]
        _bring_forward(state, now, hidden, FIRST + int(free))


def end_lapsed(
    state: State, now: float, dead: Collection[str], has_lapsed: Callable[[str, float], bool] | None = None
) -> None:
    """Take out the tickets whose owners are gone.

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param dead: ids of tickets whose process is known to be gone.
    :param has_lapsed: whether what a host dated to end at some moment has ended; None (default): it is one clock.
    """
    firsts = state.head.waiting
    if firsts:
        lapsed = [each for each in firsts if each.id in dead or is_over(state, now, each, has_lapsed)]
        if lapsed:
            out = {each.id for each in lapsed}
            state.head.waiting = [each for each in firsts if each.id not in out]
            for each in lapsed:
                if each.asks_again and each.id not in dead:
                    _put_away(state, each)
    if state.tickets.is_due(now) or len(state.tickets) > sum(state.head.behind.values()) + MOST_AWAY:
        _bring_forward(state, now, (), 0)


def is_over(state: State, now: float, ticket: Ticket, has_lapsed: Callable[[str, float], bool] | None = None) -> bool:
    """Whether one of the first has lapsed, or who waits in place has died.

    :param state: of which only the head need be known.
    :param now: the store's clock, seconds since the epoch.
    :param ticket: as it stands in the queue.
    :param has_lapsed: as `expiry.end_expired`.
    """

    def over(ends: float) -> bool:
        return has_lapsed(ticket.host, ends) if has_lapsed is not None else state.head.has_lapsed(ends, now)

    if over(ticket.until):
        return True
    if ticket.asks_again:
        return False  # nobody waits, and nobody on its host need be there
    if has_lapsed is None and ticket.called > 0 and now - ticket.called > LOST_SECONDS:
        return True
    host = state.hosts.get(ticket.host)
    return host is not None and over(host.seen + LOST_SECONDS)


def waiting(state: State) -> list[Ticket]:
    """All tickets, in the queue's order; also of those who have been away for long.

    :param state: with its records.
    """
    return sorted([*state.head.waiting, *state.tickets.values()], key=lambda ticket: ticket.number)


def free_slots(config: Config, state: State) -> float:
    """How many more scripts could run now, as far as the limits go, whoever waits for it.

    :param config: the limits.
    :param state: of which only the head need be known.
    """
    each = sum(max(0, _capacity(config, state, node)) for node in config.nodes)
    if config.max_leases is None:
        return each
    return max(0, min(each, config.max_leases - sum(record.leases for record in state.nodes.values())))


def fullness(config: Config, state: State, now: float, node: Node) -> str:
    """Why a node cannot take one more lease, in words.

    :param config: the limits.
    :param state: the leases.
    :param now: the store's clock, seconds since the epoch.
    :param node: one that `nodes_with_capacity` left out.
    """
    limit, record = config.lease_limit(node), state.nodes.get(node.address)
    leases = record.leases if record else 0
    if limit is not None and leases >= limit:
        return f"full: {leases} of {limit} leases"
    total = sum(each.leases for each in state.nodes.values())
    if config.max_leases is not None and total >= config.max_leases:
        return f"the cluster is full: {total} of {config.max_leases} leases"
    if state.head.is_incomplete(now):
        return f"the shared state was lost {now - state.head.born:.0f} s ago: what runs is still being counted"
    return "its room is kept for those who came before"


def _kept_for_others(state: State, now: float, number: float, capacity: dict[str, float], in_all: float) -> float:
    """Keep a slot for each of the first who came before, as long as there are any.

    :param capacity: by ``host:port``; changed.
    :param in_all: slots of the cluster.
    :returns: what of those is left.
    """
    for ticket in state.head.waiting:
        if ticket.number >= number or in_all <= 0:
            break
        if ticket.called < 0 or (ticket.called and not ticket.asks_again and abs(now - ticket.called) >= CALL_SECONDS):
            continue  # for who comes back as another process it is kept until he has lapsed: it takes its time
        usable = [address for address in capacity if _can_use(ticket, address)]
        best = max(usable, key=lambda address: capacity[address], default=None)
        if best is not None and capacity[best] > 0:
            capacity[best] -= 1
            in_all -= 1
            ticket.called = ticket.called or now
    return in_all


def _called(ticket: Ticket | None, now: float) -> float:
    """`Ticket.called` of one that asks and gets nothing. Had a slot been kept for it, then one that it cannot use: its
    retry avoids the node, or its host has another list of nodes. So none is kept for a while."""
    if (
        ticket is None
        or not ticket.called
        or ticket.away
        or (ticket.called < 0 and abs(now + ticket.called) >= LOST_SECONDS)
    ):
        return 0.0
    return ticket.called if ticket.called < 0 else -now


def _hidden(state: State, capacity: Mapping[str, float], number: float) -> list[str]:
    """Which of those behind may have come before, and could use what is free: "" any, ``host:port`` that one."""
    return [
        only
        for only, count in state.head.behind.items()
        if count > 0 and (not only or capacity.get(only, 0) > 0) and number > _last_first(state, only)
    ]


def _bring_forward(state: State, now: float, wanted: Collection[str], most: int) -> None:
    """Make the next of those behind stand among the first; those that lapsed go, and all are counted anew.

    :param wanted: whom: "" those that wait for any node, ``host:port`` for that one.
    :param most: so many of each.
    """
    behind: Counter[str] = Counter()
    away: list[Ticket] = []
    forward: list[Ticket] = []
    out: list[str] = []
    behind_now = sorted(state.tickets.values(), key=lambda ticket: ticket.number)
    for ticket in behind_now:
        if ticket.away or state.head.has_lapsed(ticket.until, now):
            if ticket.asks_again and ticket.until + AWAY_SECONDS > now:
                away.append(ticket)
            else:
                out.append(ticket.id)
        elif ticket.only in wanted and behind[ticket.only] < most:
            forward.append(ticket)
            behind[ticket.only] += 1
        else:
            behind[ticket.only] += 1
    for ticket in forward:
        behind[ticket.only] -= 1
    out += [ticket.id for ticket in sorted(away, key=lambda ticket: ticket.until)[:-MOST_AWAY]]
    gone = {*out, *(ticket.id for ticket in forward)}
    state.tickets.drop_all(gone, min((_ends(each) for each in behind_now if each.id not in gone), default=0.0))
    state.head.behind = dict(+behind)
    for ticket in away:
        if not ticket.away and ticket.id not in gone:
            state.tickets.drop(ticket.id)
            _put_away(state, ticket)
    for ticket in forward:
        _add_first(state, ticket)


def _put_away(state: State, ticket: Ticket) -> None:
    ticket.away = True
    state.tickets.add(ticket.id, ticket, _ends(ticket))


def _add_first(state: State, ticket: Ticket) -> None:
    state.head.waiting.append(ticket)
    state.head.waiting.sort(key=lambda each: each.number)


def _put_behind(state: State, tickets: list[Ticket], now: float) -> None:
    head, out = state.head, {ticket.id for ticket in tickets}
    head.waiting = [each for each in head.waiting if each.id not in out]
    for ticket in tickets:
        ticket.until, ticket.called = _until(ticket, now), 0.0
        state.tickets.add(ticket.id, ticket, _ends(ticket))
        head.behind[ticket.only] = head.behind.get(ticket.only, 0) + 1


def _until(ticket: Ticket, now: float) -> float:
    """When a ticket lapses: for who comes back as another process three times as long as he takes for that, and 5 s
    more. A slot is kept for him until then, so it is not longer for those behind, and begins anew only when he asks:
    of many who are gone at once no slot is kept for one after the other."""
    return now + (3 * ticket.asks_again + _GRACE if ticket.asks_again else LIFE_SECONDS)


def _ends(ticket: Ticket) -> float:
    """When a ticket that is not among the first is to be looked at."""
    return ticket.until + AWAY_SECONDS if ticket.asks_again and ticket.away else ticket.until


def _last_first(state: State, only: str) -> int:
    """The number of the last of the first that wait for the same; 0: there is none."""
    return max((ticket.number for ticket in state.head.waiting if ticket.only == only), default=0)


def _capacity(config: Config, state: State, node: Node) -> float:
    limit, record = config.lease_limit(node), state.nodes.get(node.address)
    return inf if limit is None else limit - (record.leases if record else 0)


def _can_use(ticket: Ticket, address: str) -> bool:
    return address == ticket.only if ticket.only else address not in ticket.exclude
