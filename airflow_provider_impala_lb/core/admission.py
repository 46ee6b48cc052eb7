"""Who may be picked: before any policy is asked."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from airflow_provider_impala_lb.core.config import Config, Node
from airflow_provider_impala_lb.core.health import left_out
from airflow_provider_impala_lb.core.state import State
from airflow_provider_impala_lb.errors import NoNodeAvailable


class Admitted(msgspec.Struct):
    """The candidates (never none), and why each other node was left out.

    :param anyway: the candidate is one that is out; all are, and no answer would be worse than a try.
    """

    candidates: list[Node]
    left_out: dict[str, str]
    anyway: bool = False


def admit(config: Config, state: State, now: float, excluded: Mapping[str, str], avoid: str = "") -> Admitted:
    """The nodes that may take new work.

    :param excluded: nodes the caller has tried or does not want, with its reasons.
    :param avoid: a node to leave out if there is another one: the last to fail this task.
    :raises NoNodeAvailable: all are excluded or drained; the message says how many of each, and why.
    """
    reasons = dict(excluded)
    candidates = []
    resting = []
    for node in config.nodes:
        record = state.nodes.get(node.address)
        if node.address in excluded:
            continue
        if record is None:
            candidates.append(node)
        elif record.drained:
            reasons[node.address] = "drained by an operator"
        elif (why := left_out(record, now)) is not None:
            reasons[node.address] = why
            resting.append((record.out.until if record.out else now, node))
        else:
            candidates.append(node)
    if len(candidates) > 1 and avoid in {node.address for node in candidates}:
        candidates = [node for node in candidates if node.address != avoid]
        reasons[avoid] = "failed this task last time"
    if candidates:
        return Admitted(candidates, reasons)
    if resting:
        # What we know of them may be out of date (finagle's panic mode, pgjdbc): the one due soonest, whatever it is.
        soonest = min(resting, key=lambda entry: entry[0])[1]
        reasons.pop(soonest.address)
        return Admitted([soonest], reasons, anyway=True)
    drained = sum(reason == "drained by an operator" for reason in reasons.values())
    raise NoNodeAvailable(
        f"No coordinator of {config.name} may take the work: {len(config.nodes)} nodes, {drained} drained, "
        f"{len(config.nodes) - drained} tried in vain",
        {address: reasons[address] for address in config.addresses},
    )
