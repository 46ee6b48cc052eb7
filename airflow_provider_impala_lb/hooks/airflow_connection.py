"""An Airflow connection as a configuration. Its extra takes the keys of the configuration file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import msgspec

from airflow_provider_impala_lb.core.config import parse as configuration
from airflow_provider_impala_lb.core.config.address import format_address
from airflow_provider_impala_lb.core.config.model import Config
from airflow_provider_impala_lb.core.text import shown
from airflow_provider_impala_lb.errors import ConfigError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

# A plain `impala` connection carries impyla's own arguments in its extra, as the official provider passes them on.
_IMPYLA_KEYS = {
    "auth_mechanism": "auth_mechanism",
    "use_ssl": "use_ssl",
    "ca_cert": "ca_cert",
    "verify_cert": "verify_cert",
    "kerberos_service_name": "kerberos_service_name",
    "krb_host": "krb_host",
    "timeout": "rpc_timeout",
}
_HTTP = (
    "HiveServer2 over HTTP is not supported here (nor are the proxies and JSON Web Tokens that need it): name the "
    "coordinators' own HiveServer2 port, 21050 by default, and remove these keys; or keep the official provider for "
    "this connection"
)
# Arguments of impyla's `connect` that the official provider passes on, and this one has no use for.
_UNSUPPORTED = {
    **dict.fromkeys(("use_http_transport", "http_path", "jwt", "http_cookie_names", "auth_cookie_names"), _HTTP),
    **dict.fromkeys(("user_agent", "get_user_custom_headers_func"), _HTTP),
    "use_ldap": "write auth_mechanism LDAP instead",
    "ldap_user": "write it as the connection's login instead",
    "ldap_password": "write it as the connection's password instead",
    "use_kerberos": "write auth_mechanism GSSAPI instead",
    "retries": "remove it: a connection that breaks is made anew for up to session.reconnect_timeout seconds",
    "protocol": "remove it: HiveServer2 is the only one",
}


def config_of(connection: Connection) -> Config:
    """The configuration an Airflow connection stands for.

    ``host`` is ``c1:21050,c2:21050`` (``port`` is the default), ``login`` the session's user, ``schema`` its database;
    the extra holds the other keys, or ``config_file``, the path of a file with all of them (``deployment`` may be
    beside it). ``store_conn_id`` in the extra names a connection of type ``redis`` instead of ``store``;
    ``web_conn_id`` one with the login for ``load.web_auth`` (see :func:`web_password_of`); for ``seal_key`` see
    :func:`seal_key_of`. A connection of type ``impala`` works too, as a cluster of one.

    :param connection: Airflow's.
    :raises ConfigError: names the connection, the key, the value, and what is allowed.
    """
    source = f"connection {connection.conn_id}"
    extra = _extra(connection, source)
    extra.pop("seal_key", None)
    path = extra.pop("config_file", None)
    if path is not None:
        deployment = extra.pop("deployment", None)  # several Airflows may read one file
        configuration.check_deployment(source, deployment)
        if extra or connection.host:
            also = ", ".join((["host"] if connection.host else []) + sorted(extra))
            raise ConfigError(f"{source}: config_file: the file holds all keys, but the connection also has {also}")
        config = configuration.load(path)
        changed = {"user": connection.login, "database": connection.schema}
        session = msgspec.structs.replace(config.session, **{key: value for key, value in changed.items() if value})
        return msgspec.structs.replace(config, session=session, deployment=deployment or config.deployment)
    store_conn_id = extra.pop("store_conn_id", None)
    if store_conn_id is not None:
        if "store" in extra:
            raise ConfigError(f"{source}: store_conn_id: store is there too; name the store in one of them")
        extra["store"] = _store_url(store_conn_id, source)
    web_conn_id = extra.pop("web_conn_id", None)
    if web_conn_id is not None:
        load = {} if "load" in extra and extra["load"] is None else extra.get("load")
        if not isinstance(load, dict):
            raise ConfigError(f"{source}: web_conn_id: is of no use without a section load, whose web_auth it is for")
        login = _connection(web_conn_id, source, "web_conn_id").login
        extra["load"] = {**({"web_user": login} if login else {}), **load}
    if connection.port:
        extra.setdefault("port", connection.port)
    in_host = [part.strip() for part in (connection.host or "").split(",") if part.strip()]
    detailed = "nodes" in extra  # with weights or web addresses, which host cannot say
    if not detailed:
        extra["nodes"] = in_host
    extra.setdefault("name", connection.conn_id)
    session_keys = extra.get("session") or {}
    if isinstance(session_keys, dict):
        filled = dict(session_keys)
        if connection.login:
            filled["user"] = connection.login
        if connection.schema:
            filled["database"] = connection.schema
        extra["session"] = filled
    config = configuration.parse(extra, source=source, from_text=True)
    if config.source is not None and in_host:
        raise ConfigError(
            f"{source}: host names {', '.join(in_host)}, but nodes in extra are found by {config.source.name}; leave "
            "host empty, or nodes out"
        )
    if detailed and in_host:
        hosts = configuration.parse({**extra, "nodes": in_host, "node_count": None}, source=source, from_text=True)
        if set(hosts.addresses) != set(config.addresses):
            raise ConfigError(
                f"{source}: host names {', '.join(hosts.addresses)}, but nodes in extra lists "
                f"{', '.join(config.addresses)}; name the nodes in one place, or the same in both"
            )
    return config


def web_password_of(connection: Connection) -> str | None:
    """The password or token for the coordinators' web pages.

    :param connection: Airflow's, whose extra may name another one as ``web_conn_id``.
    :returns: that other one's password; None without ``web_conn_id``.
    :raises ConfigError: Airflow knows no connection of that id.
    """
    source = f"connection {connection.conn_id}"
    conn_id = _extra(connection, source).get("web_conn_id")
    password: str | None = _connection(conn_id, source, "web_conn_id").password if conn_id is not None else None
    return password


def seal_key_of(connection: Connection) -> str | None:
    """What seals the secrets of sessions that a journal keeps, instead of the connection's password.

    :param connection: Airflow's.
    :returns: ``seal_key`` of its extra; None: it has none.
    :raises ConfigError: it is no text, or an empty one.
    """
    source = f"connection {connection.conn_id}"
    key = _extra(connection, source).get("seal_key")
    if key is not None and (not isinstance(key, str) or not key):
        raise ConfigError(f"{source}: seal_key: must be a text of any length, the same for all who use the connection")
    return key


def _connection(conn_id: str, source: str, key: str) -> Connection:
    from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise ConfigError(f"{source}: {key}: Airflow knows no connection {shown(conn_id)}") from None


def _store_url(conn_id: str, source: str) -> str:
    """The URL of a connection of type ``redis``: host, port, login, password; in its extra db, ssl and TLS files."""
    connection = _connection(conn_id, source, "store_conn_id")
    if connection.conn_type != "redis" or not connection.host:
        raise ConfigError(f"{source}: store_conn_id: {shown(conn_id)} must be a connection of type redis with a host")
    extra = _extra(connection, f"connection {conn_id}")
    files: dict[str, str] = {key: extra[key] for key in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") if key in extra}
    login = f"{quote(connection.login or '', safe='')}:{quote(connection.password or '', safe='')}@"
    address = format_address(connection.host, connection.port or 6379)
    scheme = "rediss" if _is_true(extra.get("ssl", False), f"connection {conn_id}: ssl") else "redis"
    return f"{scheme}://{login}{address}/{extra.get('db') or 0}" + (f"?{urlencode(files)}" if files else "")


def _is_true(value: Any, key: str) -> bool:
    """A URI's extra holds texts only.

    :raises ConfigError: neither yes nor no.
    """
    text = str(value).strip().lower()
    if text in ("true", "1", "yes", "on"):
        return True
    if text in ("false", "0", "no", "off"):
        return False
    raise ConfigError(f"{key}: is {shown(value)}, must be true or false")


def _extra(connection: Connection, source: str) -> dict[str, Any]:
    try:
        json.loads(
            connection.extra or "{}"
        )  # of what is not JSON Airflow 3 makes an empty one, with a traceback in the log
    except ValueError:
        raise ConfigError(f"{source}: extra: is not JSON") from None
    extra = connection.extra_dejson
    if not isinstance(extra, dict):
        raise ConfigError(f"{source}: extra: is JSON, but no object of keys and values")
    # A form saves its empty fields too; an empty section is no field of it (see README).
    sections = ("session", "load")
    extra = {
        key: _from_json(value)
        for key, value in extra.items()
        if value not in (None, "") or (key in sections and value is None)
    }
    _refuse_unsupported(extra, source)
    if connection.conn_type == "impala":
        session = extra.pop("session", None) or {}
        if not isinstance(session, dict):
            raise ConfigError(f"{source}: session: is no object of keys and values")
        session = dict(session)
        for theirs, ours in _IMPYLA_KEYS.items():
            if theirs in extra:
                session[ours] = extra.pop(theirs)
        extra["session"] = session
    return extra


def _refuse_unsupported(extra: dict[str, Any], source: str) -> None:
    """Remove from ``extra`` what is switched off.

    :raises ConfigError: what is not, and what to do.
    """
    refused: dict[str, list[str]] = {}
    for key, advice in _UNSUPPORTED.items():
        if key in extra:
            if _is_on(extra[key]):
                refused.setdefault(advice, []).append(key)
            else:
                del extra[key]
    if refused:
        raise ConfigError("; ".join(f"{source}: {', '.join(keys)}: {advice}" for advice, keys in refused.items()))


def _from_json(value: Any) -> Any:
    """An object or a list that is written as text, as in a URI under Airflow 2; what else it is stays as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, dict):
        return {key: _from_json(each) for key, each in value.items()}
    return value


def _is_on(value: Any) -> bool:
    return bool(value) and str(value).lower() not in ("false", "0")
