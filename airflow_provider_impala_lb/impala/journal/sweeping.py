"""Journals that nobody has written in for a month are removed, but for those of which something may still run."""

from __future__ import annotations

import random
from logging import Logger

from airflow_provider_impala_lb.core.ports import JournalStore
from airflow_provider_impala_lb.impala.journal.document import decode

KEPT_SECONDS = 30 * 24 * 3600.0
"""After its last change, in case its task is cleared."""
SHARE = 0.01
"""Of the scripts that end, which sweep."""


def sweep(journals: JournalStore | None, log: Logger, share: float = SHARE) -> None:
    """Remove what is old. Never raises.

    :param journals: where the journals are; None: there are none.
    :param log: for what cannot be removed.
    :param share: how likely it is done at all, from 0 to 1; default :data:`SHARE`.
    """

    def wanted(_: str, document: bytes, now: float) -> bool:
        record = decode(document, "a journal")
        return bool(record.sessions) or record.intent is not None or now - record.at < KEPT_SECONDS

    if journals is None or random.random() >= share:
        return
    try:
        swept = journals.sweep(wanted)
    except Exception as error:  # tidying up is not worth a script
        log.warning("Old journals could not be removed: %s", error)
        return
    for line in swept.damaged:
        log.warning("A journal cannot be read, and is left as it is: %s", line)
