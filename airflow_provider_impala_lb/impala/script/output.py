"""The rows of a statement as a file, without ever holding more than some thousand of them in memory.

The ending of the name says which: ``.csv``, ``.csv.gz`` or ``.parquet``. The file appears under its name when it is
whole, and never before.
"""

from __future__ import annotations

import base64
import csv
import io
import os
import reprlib
import secrets
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from logging import getLogger
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec

from airflow_provider_impala_lb.errors import ConfigError

log = getLogger(__name__)

ROWS_AT_ONCE = 10_000
_GROUP_ROWS, _GROUP_BYTES = 50_000, 64 << 20  # of a Parquet row group, which is written as one
_ENDINGS = (".csv", ".csv.gz", ".parquet")

Row = Sequence[Any]
Description = Sequence[Sequence[Any]]


class OutputDone(msgspec.Struct):
    """A file that is whole.

    :ivar path: as it was asked for.
    :ivar rows: in it.
    :ivar bytes: its size.
    """

    path: str
    rows: int
    bytes: int


class _Writer(Protocol):
    def write(self, rows: list[Row]) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


def check(path: str | os.PathLike[str]) -> None:
    """Whether :func:`write` can make this file, found out by making another one beside it and removing it again.

    :param path: of the file.
    :raises ConfigError: the ending, a missing directory, no right to write there, a directory of that name, or pyarrow
        is not installed.
    """
    path = Path(path)
    ending = _ending(path)
    if ending == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"{path}: Parquet files need pyarrow, which cannot be imported ({error}): "
                "pip install 'airflow-provider-impala-lb[parquet]', or write .csv or .csv.gz"
            ) from None
    if path.is_dir():
        raise ConfigError(f"{path}: this is a directory; name a file that ends in {_listed()}")
    try:
        with _beside(path):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: no file can be written there: {error.strerror or error}") from None


def write(cursor: Any, path: str | os.PathLike[str]) -> OutputDone:
    """Fetch all rows of the cursor's last statement into a file. A file of that name is replaced, and keeps its mode.

    CSV: a header, commas, ``\\n``, UTF-8, quotes where they are needed; NULL is empty, TRUE ``true``, BINARY base64.
    Parquet: Impala's own types; TIMESTAMP in microseconds, without a zone; ARRAY, MAP and STRUCT as their JSON text.
    Columns of one name, as a join's, get different ones: :func:`unique_names`.

    After an error nothing is left, under any name; also after those of the cursor.

    :param cursor: DB-API, with impyla's ``description``.
    :param path: of the file.
    :raises ConfigError: as :func:`check`, or the statement has no rows to give, like an INSERT.
    :raises OSError: the disk is full, and the like.
    :raises ValueError: a value does not fit the file's type.
    """
    path = Path(path)
    check(path)
    description = cursor.description
    if description is None:
        raise ConfigError(f"{path}: the statement gives no rows that could be written there")
    names = [column[0] for column in description]
    description = [(name, *column[1:]) for name, column in zip(unique_names(names), description, strict=True)]
    if renamed := [
        f"{number} ({a}) is {b}"
        for number, (a, (b, *_)) in enumerate(zip(names, description, strict=True), 1)
        if a != b
    ]:
        log.warning("%s: several columns have the same name: there column %s", path, ", ".join(renamed))
    rows = 0
    with _beside(path) as (file, keep):
        writer = _WRITERS[_ending(path)](file, description)
        try:
            while batch := cursor.fetchmany(ROWS_AT_ONCE):
                writer.write(batch)
                rows += len(batch)
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        file.flush()
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
        keep()
    return OutputDone(str(path), rows, size)


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, of which those that were there before get ``_2``, ``_3`` and so on, or the next number that is free.

    ``id, id, id_2`` become ``id, id_3, id_2``. ``ID`` and ``id`` are one: they are to Impala, and to most who read
    Parquet.

    :param names: of the columns, in order.
    """
    taken, found = {name.lower() for name in names}, []
    seen: set[str] = set()
    for name in names:
        unique, number = name, 1
        while unique.lower() in (seen if number == 1 else taken):
            number += 1
            unique = f"{name}_{number}"
        seen.add(unique.lower())
        taken.add(unique.lower())
        found.append(unique)
    return found


def _ending(path: Path) -> str:
    name = path.name.lower()
    for ending in _ENDINGS:
        if name.endswith(ending) and name != ending:
            return ending
    raise ConfigError(f"{path}: the name of an output file must end in {_listed()}")


def _listed() -> str:
    return f"{', '.join(_ENDINGS[:-1])} or {_ENDINGS[-1]}"


@contextmanager
def _beside(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
    """A new file in the same directory, and a function that gives it the final name. Without that it is removed.

    Who may read it is up to the umask, or the directory's default ACL, as for any file (a chmod afterwards would undo
    the latter); or to the file that it replaces.
    """
    temporary = path.parent / f".impala-lb-{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    before = _mode(path)
    # Never wider than what it replaces, not for a moment either.
    file = os.fdopen(os.open(temporary, flags, 0o666 if before is None else before), "wb")
    kept = False

    def keep() -> None:
        nonlocal kept
        os.replace(temporary, path)
        kept = True
        _sync_directory(path.parent)

    try:
        with file:
            if before is not None:
                os.fchmod(file.fileno(), before)
            yield file, keep
    finally:
        if not kept:
            with suppress(OSError):
                temporary.unlink()


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.lstat().st_mode) if path.is_file() and not path.is_symlink() else None
    except OSError:
        return None


def _sync_directory(directory: Path) -> None:
    """The new name too is to survive a crash. Not every file system can do it for a directory."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Csv:
    def __init__(self, file: IO[bytes], description: Description, *, packed: bool = False) -> None:
        self._file = file
        self._packer = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS | 16) if packed else None  # 16: as gzip
        self._as_text = [_TO_TEXT.get(column[1], _plain) for column in description]
        self._write([[column[0] for column in description]])

    def write(self, rows: list[Row]) -> None:
        self._write(
            [None if value is None else convert(value) for convert, value in zip(self._as_text, row, strict=True)]
            for row in rows
        )

    def _write(self, rows: Iterable[list[Any]]) -> None:
        text = io.StringIO(newline="")
        # A row of one empty field would be an empty line, which readers skip: the csv module puts quotes there.
        csv.writer(text, lineterminator="\n").writerows(rows)
        data = text.getvalue().encode()
        self._file.write(self._packer.compress(data) if self._packer else data)

    def close(self) -> None:
        if self._packer:
            self._file.write(self._packer.flush())

    def abandon(self) -> None:
        pass


def _plain(value: Any) -> Any:
    return _string(value) if isinstance(value, (bytes, bytearray)) else value


def _string(value: Any) -> str:
    """impyla leaves a STRING that is no UTF-8 as bytes: what cannot be read is shown as ``\\xff``."""
    return bytes(value).decode(errors="backslashreplace") if isinstance(value, (bytes, bytearray)) else str(value)


_TO_TEXT: dict[str, Callable[[Any], Any]] = {
    "BOOLEAN": lambda value: "true" if value else "false",
    "DECIMAL": lambda value: format(value, "f") if isinstance(value, Decimal) else value,  # str() makes 0E-8 of zero
    "BINARY": lambda value: base64.b64encode(bytes(value)).decode(),
}


def text_of(value: Any, column_type: Any) -> Any:
    """A value as a CSV file has it.

    :param value: as impyla gives it; not None.
    :param column_type: of the cursor's description; None: not known.
    """
    return _TO_TEXT.get(column_type, _plain)(value)


class _Parquet:
    def __init__(self, file: IO[bytes], description: Description) -> None:
        import pyarrow
        import pyarrow.parquet

        self._arrow = pyarrow
        self._schema = pyarrow.schema([(column[0], _arrow_type(pyarrow, column)) for column in description])
        self._is_text = [pyarrow.types.is_string(kind) for kind in self._schema.types]
        self._parquet = pyarrow.parquet.ParquetWriter(file, self._schema)
        self._waiting: list[Any] = []

    def write(self, rows: list[Row]) -> None:
        columns = [
            self._column(
                name, [None if value is None else _string(value) for value in values] if text else values, kind
            )
            for name, values, kind, text in zip(
                self._schema.names, zip(*rows, strict=True), self._schema.types, self._is_text, strict=True
            )
        ]
        self._waiting.append(self._arrow.RecordBatch.from_arrays(columns, schema=self._schema))
        if (
            sum(batch.num_rows for batch in self._waiting) >= _GROUP_ROWS
            or sum(batch.nbytes for batch in self._waiting) >= _GROUP_BYTES
        ):
            self._write_group()

    def _column(self, name: str, values: Any, kind: Any) -> Any:
        try:
            return self._arrow.array(values, kind)
        except (ValueError, TypeError, OverflowError) as error:  # pyarrow's own are these, too
            for value in values if len(values) > 1 else ():
                self._column(name, [value], kind)
            raise ValueError(f"column {name}: {reprlib.repr(values[0])} is no {kind} ({error})") from error

    def _write_group(self) -> None:
        if self._waiting:
            self._parquet.write_table(
                self._arrow.Table.from_batches(self._waiting, self._schema), row_group_size=1 << 20
            )
            self._waiting.clear()

    def close(self) -> None:
        self._write_group()
        self._parquet.close()

    def abandon(self) -> None:
        """Its finalizer would write the end of the file, when there is no file any more."""
        with suppress(Exception):
            self._parquet.close()
        self._parquet.is_open = False


def _arrow_type(pyarrow: Any, column: Sequence[Any]) -> Any:
    """:param column: impyla's ``(name, type, None, None, precision, scale, None)``."""
    if column[1] == "DECIMAL":
        return pyarrow.decimal128(column[4], column[5])
    make = {
        "BOOLEAN": pyarrow.bool_,
        "TINYINT": pyarrow.int8,
        "SMALLINT": pyarrow.int16,
        "INT": pyarrow.int32,
        "BIGINT": pyarrow.int64,
        "FLOAT": pyarrow.float32,
        "DOUBLE": pyarrow.float64,
        "DATE": pyarrow.date32,
        "BINARY": pyarrow.binary,
        "TIMESTAMP": lambda: pyarrow.timestamp("us"),
    }.get(column[1], pyarrow.string)
    return make()


_WRITERS: dict[str, Callable[[IO[bytes], Description], _Writer]] = {
    ".csv": _Csv,
    ".csv.gz": lambda file, description: _Csv(file, description, packed=True),
    ".parquet": _Parquet,
}
