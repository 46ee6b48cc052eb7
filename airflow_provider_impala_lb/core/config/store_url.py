"""The configuration's ``store``: a Redis server, or those who know where it is, as a URL."""

import re
from typing import Literal

import msgspec

from airflow_provider_impala_lb.core.config.address import format_address, parse_address

ALLOWED = (
    "file, redis://[user:password@]host[:port][/db], redis+sentinel://[user:password@]host[:port],.../service[/db] or "
    "redis+cluster://[user:password@]host[:port],...; with TLS rediss://, rediss+sentinel:// or rediss+cluster://, "
    "and then ?ssl_ca_certs=FILE&ssl_certfile=FILE&ssl_keyfile=FILE"
)
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")  # named as redis-py names them
_FORM = (
    r"(?P<scheme>rediss?)(\+(?P<kind>sentinel|cluster))?://"
    r"((?P<user>[^:@/?#]*)(:(?P<password>[^@/?#]*))?@)?(?P<hosts>[^@/?#]+)(?P<path>/[^@?#]*)?(\?(?P<query>[^@#]*))?"
)


class StoreUrl(msgspec.Struct, frozen=True):
    """Where the shared state is kept. Its text has no password in it.

    :param kind: one server, the sentinels who know where it is, or a cluster.
    :param hosts: the server; for ``sentinel`` the sentinels, for ``cluster`` the nodes to ask for the others.
    :param tls: speak TLS; default False.
    :param service: what the sentinels call the server; default "".
    :param db: number of the database; default 0.
    :param user: to log in as; None (default): nobody.
    :param password: to log in with; None (default): none.
    :param tls_files: redis-py's names of files -> paths; default none.
    """

    kind: Literal["server", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    service: str = ""
    db: int = 0
    user: str | None = None
    password: str | None = None
    tls_files: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"StoreUrl({self})"

    def __str__(self) -> str:
        scheme = ("rediss" if self.tls else "redis") + ("" if self.kind == "server" else f"+{self.kind}")
        hosts = ",".join(format_address(host, port) for host, port in self.hosts)
        path = {"server": f"/{self.db}", "sentinel": f"/{self.service}/{self.db}", "cluster": ""}[self.kind]
        return f"{scheme}://{hosts}{path}"


def parse_store(text: str) -> StoreUrl | None:
    """The configuration's ``store`` or ``mirror``.

    :param text: as written.
    :returns: None for ``file``.
    :raises ValueError: anything that is not `ALLOWED`; the text of it is never in the error.
    """
    if text == "file":
        return None
    from urllib.parse import parse_qsl, unquote

    found = re.fullmatch(_FORM, text)
    if not found:
        raise ValueError(
            f"is not one of {ALLOWED}. In a user name or a password write / ? # @ : and % as %2F %3F %23 %40 %3A %25"
        )
    kind = found["kind"] or "server"
    parts = [part for part in (found["path"] or "").split("/") if part]
    service = unquote(parts.pop(0)) if kind == "sentinel" and parts else ""
    if kind == "sentinel" and not service:
        raise ValueError(f"names no service; allowed: {ALLOWED}")
    if len(parts) > (kind != "cluster") or not all(part.isdigit() for part in parts):
        raise ValueError(f"ends in something that is not a database's number; allowed: {ALLOWED}")
    files = dict(parse_qsl(found["query"] or "", keep_blank_values=True))
    if set(files) - set(_TLS_FILES) or (files and found["scheme"] == "redis"):
        raise ValueError(f"has options it cannot have; allowed: {ALLOWED}")
    try:
        port = 26379 if kind == "sentinel" else 6379
        hosts = tuple(parse_address(host, port) for host in found["hosts"].split(","))
    except ValueError:
        raise ValueError(f"names a host that is not host, host:port or [v6]:port; allowed: {ALLOWED}") from None
    if kind == "server" and len(hosts) > 1:
        raise ValueError(f"has more hosts than its kind can have; allowed: {ALLOWED}")
    return StoreUrl(
        kind=kind,  # type: ignore[arg-type]
        hosts=hosts,
        tls=found["scheme"] == "rediss",
        service=service,
        db=int(parts[0]) if parts else 0,
        user=unquote(found["user"] or "") or None,
        password=unquote(found["password"] or "") or None,
        tls_files=tuple(files.items()),
    )
