"""Records that most transactions do not touch: kept as lines of bytes, and decoded one by one when one is asked for.

A pick with 200 leases around it needs their number on each node, which stands in the state's head; decoding the leases
themselves would cost it five times as much as all the rest.
"""

# No postponed annotations here: msgspec would compile each of them anew in every process, which is most of what
# importing this file would cost.
import zlib
from collections.abc import Callable, Collection, Iterator
from math import inf
from typing import Generic, TypeVar

import msgspec

Record = TypeVar("Record", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder()
_CRC = 8
_FEW_LOOKS = 16
"""More keys than that are looked up in an index. Making it costs about as much as so many searches of the bytes."""


class Extent(msgspec.Struct, array_like=True):
    """What the head says of the records of one kind: how many they are, where a store keeps them, when to look at them.

    :param count: how many.
    :param due: no record ends before this moment (store's clock, seconds since the epoch).
    :param slot: which of a store's two places holds them.
    :param length: bytes of it.
    :param generation: grows when the slot changes, so that a reader without the lock can tell whether it was
        overtaken.
    """

    count: int = 0
    due: float = 0.0
    slot: int = 0
    length: int = 0
    generation: int = 0


Reader = Callable[[int, Extent], bytes]
"""Gives the bytes of a kind of records: its number, its extent."""


class RecordLog(Generic[Record]):
    """Keyed records of one kind.

    Each line: newline, key, tab, checksum, record; keys and records are JSON, which escapes newlines and tabs. A
    damaged line is passed over: what these records say is soft.

    A key is searched for in the bytes. Where one transaction asks for many (all leases of a host that has died are to
    be noted), the lines lie in an index from then on, so that all of it costs no more than a few rewrites.

    :param decoder: of one record.
    :param kind: their number among the kinds of records.
    :param extent: theirs in the head, kept up to date.
    :param read: gives their bytes; called at most once, and only if a record is asked for.
    :ivar extent: as given.
    :ivar rewritten: whether a line that was there before has gone or changed.
    :ivar size: bytes of all lines, known without reading them.
    """

    __slots__ = (
        *("_absent", "_added", "_decoder", "_index", "_joined", "_kind", "_looks", "_read", "_text"),
        *("extent", "rewritten", "size"),
    )

    def __init__(self, decoder: msgspec.json.Decoder[Record], kind: int, extent: Extent, read: Reader) -> None:
        self.extent = extent
        self._kind = kind
        self.rewritten = False
        self.size = extent.length
        self._decoder = decoder
        self._read = read
        self._added: list[bytes] = []
        self._text: bytes | None = None  # None: not read yet, or to be made of the index
        self._joined = 0  # so many of the added lines are in that text
        self._index: dict[bytes, bytes] | None = None  # all lines, in their order, by their keys as they are written
        self._looks: float = 0  # in the text, for a key
        self._absent = b""  # the key that was not found last: it is asked for, and then put

    def __len__(self) -> int:
        return self.extent.count

    @property
    def text(self) -> bytes:
        """All lines, as a store keeps them."""
        if self._text is None and self._index is not None:
            self._text, self._joined = b"".join(self._index.values()), len(self._added)
        elif self._text is None:
            before = self._read(self._kind, self.extent) if self.extent.length else b""
            self._text, self._joined = b"".join((before, *self._added)), len(self._added)
            self.size = len(self._text)
        elif self._joined < len(self._added):
            self._text, self._joined = b"".join((self._text, *self._added[self._joined :])), len(self._added)
        return self._text

    @property
    def added(self) -> bytes:
        """The lines that came behind what was there; only they are new unless :attr:`rewritten`."""
        return b"".join(self._added)

    def may_hold(self, text: str) -> bool:
        """Whether this text is a key or a value of some record. False is certain; True may be of another field.

        A look at the bytes costs next to nothing; decoding all records would.

        :param text: a whole value, e.g. an owner.
        """
        return self.extent.count > 0 and _encoder.encode(text) in self.text

    def is_due(self, now: float) -> bool:
        """Whether a record may have come to its end.

        :param now: the store's clock, seconds since the epoch.
        """
        return self.extent.count > 0 and self.extent.due <= now

    def add(self, key: str, record: Record, ends: float) -> None:
        """A record under a key that is not there yet.

        :param key: any text.
        :param record: what to keep.
        :param ends: when `keep` is to be asked about it (store's clock, seconds since the epoch).
        """
        line, self._absent = _line(key, record), b""
        if self._index is not None:
            name = _encoder.encode(key)
            if name in self._index:
                self._go_without_index()  # damaged: it stays, as a line that nobody can read
            else:
                self._index[name] = line
        self._added.append(line)
        self.size += len(line)
        extent = self.extent
        extent.due = min(extent.due, ends) if extent.count else ends
        extent.count += 1

    def put(self, key: str, record: Record, ends: float) -> None:
        """A record under a key, instead of the one that is there.

        :param key: any text.
        :param record: what to keep.
        :param ends: as in :meth:`add`.
        """
        self.drop(key)
        self.add(key, record, ends)

    def get(self, key: str) -> Record | None:
        """The record under this key, or None.

        :param key: any text.
        """
        found = self._find(_encoder.encode(key))
        return found[2] if found else None

    def drop(self, key: str) -> Record | None:
        """Take a record out and return it; None if there is none.

        :param key: any text.
        """
        name = _encoder.encode(key)
        found = self._find(name)
        if found is None:
            return None
        start, line, record = found
        if self._index is not None:
            del self._index[name]
            self._text = None
        else:
            self._text = self.text[:start] + self.text[start + len(line) :]
        self.rewritten = True
        self.size -= len(line)
        self.extent.count -= 1
        return record

    def drop_all(self, keys: Collection[str], due: float) -> None:
        """Take many records out at once.

        :param keys: theirs.
        :param due: no other record ends before this moment (store's clock, seconds since the epoch).
        """
        self.extent.due = due
        if not keys:
            return
        names = {_encoder.encode(key) for key in keys}
        lines = self.text.split(b"\n")[1:]
        kept = [line for line in lines if line.partition(b"\t")[0] not in names]
        self._replace(b"".join(b"\n" + line for line in kept))
        self.extent.count = len(kept)

    def drop_oldest(self, most: int) -> None:
        """Take out what was put first, if there is more than so much. None of it is decoded.

        :param most: bytes to leave.
        """
        text = self.text
        cut = text.find(b"\n", len(text) - most) if len(text) > most else 0
        if cut:
            self._replace(text[cut:] if cut > 0 else b"")
            self.extent.count = self.text.count(b"\n")

    def change_all(self, text: str, change: Callable[[Record], float | None]) -> None:
        """Change many records, and write them once; each stays where it is in the order.

        :param text: a value that all which are to be changed have; only those that may have it are decoded.
        :param change: changes a record and returns the moment it ends at (store's clock, seconds since the epoch), or
            leaves it as it is and returns None.
        """
        wanted, lines, changed = _encoder.encode(text), self.text.split(b"\n")[1:], False
        for number, line in enumerate(lines):
            key, _, rest = line.partition(b"\t")
            if wanted not in rest or (record := self._decoded(key, rest)) is None:
                continue
            ends = change(record)
            if ends is not None:
                lines[number] = _line(msgspec.json.decode(key, type=str), record)[1:]
                self.extent.due, changed = min(self.extent.due, ends), True
        if changed:
            self._replace(b"".join(b"\n" + line for line in lines))

    def items(self) -> Iterator[tuple[str, Record]]:
        """All records that are whole, with their keys."""
        for line in self.text.split(b"\n")[1:]:
            key, _, rest = line.partition(b"\t")
            record = self._decoded(key, rest)
            if record is not None:
                yield msgspec.json.decode(key, type=str), record

    def values(self) -> Iterator[Record]:
        """As :meth:`items`, without the keys."""
        return (record for _, record in self.items())

    def close(self) -> None:
        """The bytes cannot be read any more; what was not asked for until now is not there."""
        self._read = nothing

    def keep(self, ends: Callable[[Record], float | None]) -> list[Record]:
        """Keep some records; returns the others. Decodes them all, and so also mends the head's number of them.

        :param ends: the moment a record ends at (store's clock, seconds since the epoch); None: it is to go.
        """
        gone, lines, due = [], [], float("inf")
        for key, record in self.items():
            end = ends(record)
            if end is None:
                gone.append(record)
            else:
                lines.append(_line(key, record))
                due = min(due, end)
        text = b"".join(lines)
        if text != self.text:
            self._replace(text)
        self.extent.count, self.extent.due = len(lines), due if lines else 0.0
        return gone

    def _find(self, name: bytes) -> tuple[int, bytes, Record] | None:
        """Where its line begins (not of an index), the line, the record."""
        if not self.extent.count or name == self._absent:
            return None
        if self._index is None and self._looks >= _FEW_LOOKS:
            self._make_index()
        start = 0
        if self._index is not None:
            if (line := self._index.get(name)) is None:
                return None
        else:
            self._looks += 1
            start, line = self._search(name)
            if start < 0:
                self._absent = name
                return None
        record = self._decoded(name, line[len(name) + 2 :])
        return None if record is None else (start, line, record)

    def _search(self, name: bytes) -> tuple[int, bytes]:
        text = self.text
        start = text.rfind(b"\n" + name + b"\t")  # from the end: the newest are asked for most
        end = text.find(b"\n", start + 1)
        return start, text[start : len(text) if end < 0 else end]

    def _make_index(self) -> None:
        lines = self.text.split(b"\n")[1:]
        index = {line.partition(b"\t")[0]: b"\n" + line for line in lines}
        if len(index) == len(lines):
            self._index = index
        else:
            self._looks = -inf  # two of one key: one of them is damaged

    def _go_without_index(self) -> None:
        _ = self.text
        self._index, self._looks = None, -inf

    def _replace(self, text: bytes) -> None:
        self._text, self._index, self._looks = text, None, 0
        self.size, self.rewritten = len(text), True

    def _decoded(self, key: bytes, rest: bytes) -> Record | None:
        body = rest[_CRC:]
        try:
            if int(rest[:_CRC], 16) != zlib.crc32(body, zlib.crc32(key)):
                return None
            return self._decoder.decode(body)
        except (ValueError, msgspec.DecodeError):
            return None


def nothing(kind: int, extent: Extent) -> bytes:
    """A `Reader` of records that are not there.

    :param kind: not used.
    :param extent: not used.
    """
    return b""


def _line(key: str, record: msgspec.Struct) -> bytes:
    name, body = _encoder.encode(key), _encoder.encode(record)
    return b"\n%b\t%08x%b" % (name, zlib.crc32(body, zlib.crc32(name)), body)
