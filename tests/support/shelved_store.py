"""A real store that is spared most of the changes, so that a year of them takes minutes.

Of some changes one after another the first are made on the store itself. Then its state is read, and the next ones are
made on that, in this process, by the same rules and the same clock, until it is put back by one commit. So what the
store holds is what it would hold without this; `tests/system/years` compares the two.
"""

import msgspec

from airflow_provider_impala_lb.core.state.record_log import RecordLog, nothing
from airflow_provider_impala_lb.core.state.state import State, decode, encode_head

NAMES = ("leases", "sessions", "avoid", "last_reports", "leftovers", "tickets")


def copy_into(state, head, texts):
    """Make a state the same as another.

    :param state: changed
    :param head: of the other; it is not to be used any more
    :param texts: the other's records
    """
    for field in head.__struct_fields__:
        if field != "extents":
            setattr(state.head, field, getattr(head, field))
    for records, text, extent in zip(state.records, texts, head.extents, strict=True):
        if records.text != text:
            records._replace(text)
        records.extent.count, records.extent.due = extent.count, extent.due


class ShelvedStore:
    """:param store: the real one
    :param clock: the test's, which that store goes by
    :param made: so many changes are made on the store
    :param of: of so many
    """

    def __init__(self, store, clock, made=50, of=1000):
        self._store, self._clock, self._made, self._of = store, clock, made, of
        self._count = 0
        self._head = None  # encoded, while the state is here
        self._logs = []

    @property
    def where(self):
        return self._store.where

    @property
    def one_clock(self):
        return self._store.one_clock

    def settled(self):
        """The store itself, with the state in it."""
        if self._head is not None:
            head = decode(self._head, nothing).head
            texts = [records.text for records in self._logs]
            self._store.transact(lambda state, now: copy_into(state, head, texts))
            self._head = None
        return self._store

    def read(self, *, records=True):
        return self.settled().read(records=records)

    def transact(self, change):
        self._count += 1
        if self._count % self._of < self._made:
            return self.settled().transact(change)
        if self._head is None:
            state, _ = self._store.read()
            self._logs = list(state.records)
            for records in self._logs:
                _ = records.text
            self._head = encode_head(state)
        dated = getattr(self._store, "_by_host_clock", lambda change: change)(change)
        state = self._state()
        before = self._marks()
        try:
            result = dated(state, self._clock.now())
        except BaseException:
            assert self._marks() == before  # what raises has changed no records, and the head is forgotten
            raise
        self._head = encode_head(state)
        for kind, name in enumerate(NAMES):  # whoever keeps it finds no records, as in one of a store
            setattr(state, name, RecordLog(msgspec.json.Decoder(), kind, state.head.extents[kind], nothing))
        return result

    def _state(self):
        state = decode(self._head, nothing)
        for name, records, extent in zip(NAMES, self._logs, state.head.extents, strict=True):
            records.extent, records.rewritten, records._added[: records._joined] = extent, False, ()
            records._joined = 0
            setattr(state, name, records)
        assert isinstance(state, State)
        return state

    def _marks(self):
        return [(records.size, len(records._added), records.rewritten) for records in self._logs]
