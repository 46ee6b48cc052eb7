"""The files of a table: where they are, which of them count, and how DuckDB reads them.

A partition ``p=1/q=a`` is a directory of that name below the table's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from airflow_provider_impala_lb.sandbox.common.catalog import CatalogObject, DataFile
from airflow_provider_impala_lb.sandbox.common.confinement import Confinement
from airflow_provider_impala_lb.sandbox.common.errors import Refused, analysis_error
from airflow_provider_impala_lb.sandbox.sql.column_types import from_impala, quote, text_literal


def local_path(text: str) -> Path:
    """The path that a LOCATION or INPATH names.

    :param text: a path, or a URL that begins with ``file:``.
    :raises Refused: another file system than this machine's.
    """
    path = Path(re.sub(r"(?i)^file:(//[^/]*)?", "", text))
    if not path.is_absolute():
        raise analysis_error(f"URI path must be absolute, and on this machine: {text}")
    return path


def list_files(directory: Path) -> list[Path]:
    """The data files directly in a directory, by name.

    :param directory: one that is not there has none. Names with a leading ``.`` or ``_`` are passed over, as in Impala.
    """
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if path.is_file() and path.name[0] not in "._")


def partition_of(relative: Path) -> str:
    """The partition that a directory holds.

    :param relative: from the table's directory.
    :returns: ``p=1/q=a``; empty: the table's directory itself.
    """
    return "" if str(relative) == "." else unquote(str(relative))


def with_listed_files(table: CatalogObject, confinement: Confinement) -> CatalogObject:
    """The table with the files that its directory holds now.

    :param table: whose location and known files count.
    :param confinement: which files may be read.
    :raises Refused: one of them is a link that leads out of the directories that tables may be in.
    """
    base = Path(table.location)
    known = {file.path: file for file in table.files}
    found: list[DataFile] = []
    if not table.partition_columns:
        found = [known.get(str(path), DataFile(str(path))) for path in list_files(base)]
    else:
        depth = len(table.partition_columns)
        for directory in sorted(base.glob("/".join(["*=*"] * depth))):
            partition = partition_of(directory.relative_to(base))
            found += [known.get(str(path), DataFile(str(path), None, partition)) for path in list_files(directory)]
    for file in found:
        confinement.check(file.path)
    return replace(table, files=tuple(found))


def check_files(table: CatalogObject, host: str, confinement: Confinement) -> None:
    """Look at each file of a table before it is read.

    :param table: as this coordinator shows it.
    :param host: the coordinator's address, for the message.
    :param confinement: which files may be read.
    :raises Refused: a file is gone: the table was dropped or overwritten elsewhere; or it leads out of the directories
        that tables may be in.
    """
    for file in table.files:
        confinement.check(file.path)
        if not os.path.exists(file.path):
            raise Refused(
                f"Disk I/O error on {host}: Failed to open HDFS file {file.path}\n"
                "Error(2): No such file or directory\n"
                f"Root cause: FileNotFoundException: File does not exist: {file.path}"
            )


def empty_relation(table: CatalogObject) -> str:
    """DuckDB's query for the columns of a table, without rows.

    :param table: as this coordinator shows it.
    """
    columns = ", ".join(f"CAST(NULL AS {from_impala(kind).duckdb}) AS {quote(name)}" for name, kind, _ in table.columns)
    return f"(SELECT {columns} WHERE false)"


def file_relation(table: CatalogObject) -> str:
    """DuckDB's query for the rows of all files of a table, with the columns in the catalog's order.

    :param table: as this coordinator shows it.
    """
    if not table.files:
        return empty_relation(table)
    files = ", ".join(text_literal(file.path) for file in table.files)
    types = {name: from_impala(kind).duckdb for name, kind, _ in table.columns}
    if table.file_format == "PARQUET":
        # The empty table last gives columns added later to files written earlier.
        return (
            f"(SELECT {', '.join(map(quote, types))} FROM (SELECT * FROM read_parquet([{files}], union_by_name=true, "  # noqa: S608
            f"hive_partitioning=false) UNION ALL BY NAME SELECT * FROM {empty_relation(table)}))"
        )
    return _text_relation(table, types)


def _text_relation(table: CatalogObject, types: dict[str, str]) -> str:
    """Text files hold the columns but for the partition's; what is no number is NULL, what is missing too."""
    skip = int(dict(table.properties).get("skip.header.line.count", "0"))
    own = [name for name in types if name not in table.partition_columns]
    columns = "{" + ", ".join(f"{text_literal(name)}: 'VARCHAR'" for name in own) + "}"
    options = (
        f"delim={text_literal(table.delimiter)}, header=false, skip={skip}, columns={columns}, nullstr='\\N', "
        "quote='', escape='', null_padding=true, strict_mode=false, auto_detect=false, ignore_errors=true, "
        "parallel=false"
    )
    parts: dict[str, list[str]] = {}
    for file in table.files:
        parts.setdefault(file.partition, []).append(text_literal(file.path))
    selects = []
    for partition, paths in parts.items():
        values = partition_values(partition)
        shown = ", ".join(_typed(name, kind, values) for name, kind in types.items())
        selects.append(f"SELECT {shown} FROM read_csv([{', '.join(paths)}], {options})")  # noqa: S608 (quoted)
    return f"({' UNION ALL '.join(selects)})"


def _typed(name: str, kind: str, partition: Mapping[str, str]) -> str:
    """What is no number is NULL. Without the trim() DuckDB would cast while it reads, and drop or refuse such lines."""
    value = partition.get(name, f"trim({quote(name)})")
    return (
        f"{quote(name)}"
        if kind == "VARCHAR" and name not in partition
        else f"TRY_CAST({value} AS {kind}) AS {quote(name)}"
    )


def partition_values(partition: str) -> dict[str, str]:
    """The values of a partition's columns, as DuckDB's literals.

    :param partition: ``p=1/q=a``.
    """
    pairs = (part.split("=", 1) for part in partition.split("/") if part)
    return {name: "NULL" if value == "__HIVE_DEFAULT_PARTITION__" else text_literal(value) for name, value in pairs}
