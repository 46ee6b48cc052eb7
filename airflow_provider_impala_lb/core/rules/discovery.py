"""Nodes that are found, not listed: what a source tells, and what becomes of nodes that come and go.

The source is asked by one process for all, and its answer stands in the state, so that everybody balances the same
nodes. An answer is taken with care: a name server that is broken, or a statestore that has just been started anew,
names few nodes or none, and work goes on with those that were known.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from airflow_provider_impala_lb.core.config.address import parse_address
from airflow_provider_impala_lb.core.config.model import Config, Node
from airflow_provider_impala_lb.core.state.model import FoundNode, FoundNodes, NodeState
from airflow_provider_impala_lb.core.state.state import State

REMEMBERED_SECONDS = 24 * 3600.0
"""A node that is gone is known for so long: tasks that ran there name it, and what they left running is looked up."""
MOST_GONE = 100
"""More are not remembered, the oldest go."""
ASK_SECONDS = 15.0
"""Who asks the source and has noted nothing for so long has died."""
_LEAST_SHARE = 0.1


def config_with(config: Config, found: FoundNodes | None) -> Config:
    """A configuration with the nodes that were found.

    :param config: with a source.
    :param found: what it told; None: nothing.
    :returns: with the nodes in the order of their addresses.
    """
    nodes: list[Node] = []
    gone: list[Node] = []
    for address, each in sorted(found.nodes.items()) if found is not None else ():
        host, port = parse_address(address)
        node = Node(host=host, port=port, web=each.web or None, joined=each.joined)
        (gone if each.gone else nodes).append(node)
    return msgspec.structs.replace(config, nodes=tuple(nodes), gone=tuple(gone))


def share_of(config: Config, node: Node, now: float) -> float:
    """Which part of its weight a node that has joined counts with, so that not all that is picked goes to the one that
    has nothing yet: ``(now - joined) / refresh``, within 0.1 and 1.

    :param config: its source has the seconds.
    :param node: which.
    :param now: the store's clock, seconds since the epoch.
    """
    if not node.joined or config.source is None:
        return 1.0
    return min(1.0, max(_LEAST_SHARE, (now - node.joined) / config.source.refresh))


def is_due(config: Config, state: State, now: float) -> bool:
    """Whether the source is to be asked, and nobody does.

    :param config: the source.
    :param state: of which only the head need be known.
    :param now: the store's clock, seconds since the epoch.
    """
    found, source = state.head.found, config.source
    if source is None:
        return False
    # What is due later than anybody can have meant was dated by a clock that was wrong.
    return (
        found is None
        or found.source != source.name
        or not found.due - max(ASK_SECONDS, source.refresh) <= now < found.due
    )


def claim(config: Config, state: State, now: float, token: str) -> None:
    """Note that this process asks the source now.

    :param config: the source.
    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param token: names the process.
    """
    assert config.source is not None
    found = state.head.found
    if found is None or found.source != config.source.name:
        found = state.head.found = FoundNodes(source=config.source.name)
    found.due, found.token = now + ASK_SECONDS, token


def note_found(config: Config, state: State, now: float, answer: Mapping[str, str] | str) -> list[str]:
    """Take over what the source told, unless that cannot be right.

    :param config: the source.
    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param answer: the web server's URL, or "", of each node by ``host:port``; or why there is none.
    :returns: what has changed, a line each; first, if there is one, that the source is of no use, or of use again.
    """
    assert config.source is not None and state.head.found is not None
    found = state.head.found
    found.due, found.token = now + config.source.refresh, ""
    problem = answer if isinstance(answer, str) else _doubt(found, state.nodes, answer)
    changes = []
    if bool(problem) != bool(found.problem):  # once: its words may differ each time, as by seconds
        changes.append(
            f"{found.source}: {problem}; the nodes stay as they are" if problem else f"{found.source}: is well again"
        )
    found.problem = problem
    if problem or isinstance(answer, str):
        return changes
    first, found.at = not found.at, now
    for address, web in answer.items():
        known = found.nodes.get(address)
        if known is None or known.gone:
            found.nodes[address] = FoundNode(web, 0.0 if first else now)
            if not first:
                changes.append(f"{address} has joined, by {found.source}")
        else:
            found.nodes[address] = msgspec.structs.replace(known, web=web or known.web)
    for address, each in list(found.nodes.items()):
        if address not in answer and not each.gone:
            found.nodes[address] = msgspec.structs.replace(each, gone=now)
            changes.append(f"{address} is gone, by {found.source}: it gets nothing new")
    _forget(state, found, now)
    return changes


def _doubt(found: FoundNodes, records: Mapping[str, NodeState], answer: Mapping[str, str]) -> str:
    """Why an answer cannot be right; "": nothing speaks against it. Who has drained the nodes that are missing has said
    that they go."""
    if not answer:
        return "names no node"
    expected = [
        address
        for address, each in found.nodes.items()
        if not each.gone and not (address not in answer and address in records and records[address].drained)
    ]
    there = sum(address in answer for address in expected)
    if 2 * there < len(expected):
        return (
            f"names {there} of the {len(expected)} nodes that were there, too few to be believed at once (if the "
            "others are gone for good, drain them)"
        )
    return ""


def _forget(state: State, found: FoundNodes, now: float) -> None:
    gone = sorted((each.gone, address) for address, each in found.nodes.items() if each.gone)
    surplus = len(gone) - MOST_GONE
    for place, (since, address) in enumerate(gone):
        record = state.nodes.get(address)
        if (record is None or not record.leases) and (place < surplus or now - since >= REMEMBERED_SECONDS):
            del found.nodes[address]
            if record is not None and record.drained:
                continue  # an operator's word is kept for longer: see `retention`
            state.nodes.pop(address, None)
            state.last_reports.drop(address)
            if not state.head.behind.get(address, 1):
                del state.head.behind[address]
