"""What was proved on one coordinator, and what a killed worker's statement means there by that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from airflow_provider_impala_lb.doctor.finding import Finding
from airflow_provider_impala_lb.impala.statement.protocol import Action


class Lookup(msgspec.Struct, frozen=True):
    """What the protocol has said of a statement of the trial, by `StatementLookup`.

    :ivar action: what it said.
    :ivar reason: why not more; default none.
    """

    action: Action
    reason: str = ""


class Proofs(msgspec.Struct):
    """What was seen on one coordinator.

    :ivar address: of the coordinator.
    :ivar reached: a session was opened, and the scratch database may be used.
    :ivar version: of Impala, e.g. ``(4, 5)``; ``(0, 0)``: not known.
    :ivar pages: its pages are its own, and show what is run on it.
    :ivar pages_reason: why not.
    :ivar closes_by_secret: a session can be closed over another connection.
    :ivar closes_by_page: a session can be closed on the page.
    :ivar kills: KILL QUERY ends an own query.
    :ivar hides: its page did not show a statement that was being planned: that it shows none proves nothing.
    :ivar running: what is said of a statement that ran when its client was killed; None: not tried.
    :ivar never_sent: and of one that was never sent.
    :ivar keeps_log: its page shows statements that have ended.
    """

    address: str
    reached: bool = False
    version: tuple[int, int] = (0, 0)
    pages: bool = False
    pages_reason: str = "they were not tried"
    closes_by_secret: bool = False
    closes_by_page: bool = False
    kills: bool = False
    hides: bool = False
    running: Lookup | None = None
    never_sent: Lookup | None = None
    keeps_log: bool = False


def conclude(all_proofs: Iterable[Proofs]) -> Iterator[Finding]:
    """What a killed worker's statement means: one finding for each group of coordinators that are alike.

    :param all_proofs: of the coordinators that were tried.
    """
    groups: dict[tuple[bool, str], list[str]] = {}
    reached = 0
    for proofs in all_proofs:
        if proofs.reached:
            reached += 1
            groups.setdefault(meaning_of(proofs), []).append(proofs.address)
    for (is_known, text), addresses in groups.items():
        where = f"all {reached} coordinators that could be tried" if len(groups) == 1 else ", ".join(addresses)
        verdict = "ok" if is_known else "warning"
        remedy = "" if is_known else "see docs/protocol.md: what proves what, and on which version"
        yield Finding("a killed worker's statement", verdict, f"On this cluster ({where}): {text}", remedy)  # type: ignore[arg-type]
    if not reached:
        text = "nothing can be said of a killed worker's statement: no coordinator could be tried"
        yield Finding("a killed worker's statement", "failed", text)


def meaning_of(proofs: Proofs) -> tuple[bool, str]:
    """What a killed worker's statement means on one coordinator.

    :param proofs: of that coordinator.
    :returns: whether its fate can be known, and a paragraph.
    """
    known, text = _fate(proofs)
    return known, f"{text} {_ends(proofs)}"


def _fate(proofs: Proofs) -> tuple[bool, str]:
    running, never = proofs.running, proofs.never_sent
    if not proofs.pages:
        return False, f"a question to the author, because its web pages prove nothing: {proofs.pages_reason}."
    if proofs.hides:
        return False, "a question to the author, because its page did not show a statement that was being planned."
    if running is None or never is None:
        return False, "it is not known, because looking for a lost statement could not be tried."
    if running.action != "go on":
        return False, f"a question to the author, because {running.reason or 'a running statement was not found'}."
    found = "one that runs, or has ended, is found by its label, and its end is known;"
    if never.action == "send":
        remains = ["a coordinator dies with it"]
        if proofs.version >= (4, 6):
            remains.append("somebody kills it while it is planned")
        remains.append("a CREATE or DROP that is sent again meets what may be its own effect")
        return True, (
            f"its fate is known: {found} one that never arrived is proved so by closing its session, and may be sent "
            f"again. It stays a question to the author where {', or '.join(remains)}."
        )
    over = "is seen to be over, but not whether it ran," if never.action == "ended" else "may still run,"
    return False, (
        f"{found} one that the page does not show {over} and is a question to the author, because "
        f"{never.reason if proofs.keeps_log else 'the page shows no statement that has ended (--query_log_size)'}."
    )


def _ends(proofs: Proofs) -> str:
    means = [
        *(["its handle and secret"] if proofs.closes_by_secret else []),
        *(["the page /close_session"] if proofs.closes_by_page else []),
    ]
    kills = "; KILL QUERY ends a single statement" if proofs.kills else ""
    if not means:
        return f"Nothing here ends a killed worker's session before disconnected_session_timeout does{kills}."
    return f"A killed worker's session can be closed by {' and by '.join(means)}{kills}."
