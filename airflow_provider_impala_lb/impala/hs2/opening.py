"""Connect to a coordinator and log in, then open a session there, or go on with one that another process has opened."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from logging import getLogger
from typing import Any

from airflow_provider_impala_lb.core.config.model import Node, SessionConfig
from airflow_provider_impala_lb.impala.hs2.connection import HS2Connection, user_of
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused, UnreadableReply, refusal, status_error
from airflow_provider_impala_lb.impala.hs2.open_failure import sort_open_failure

log = getLogger(__name__)

Opened = tuple[HS2Connection, Any, Mapping[str, str]]
"""The connection, the session's handle, and what the server says of the session."""


def open_session(node: Node, config: SessionConfig, password: str | None, database: str | None) -> Opened:
    """Connect, log in and open a session, all within ``config.open_timeout`` seconds.

    :raises NodeRefused: nothing was run, another node may be tried; `fault` says whose fault it is.
    :raises ConfigError: a file or a library that the configuration needs is missing on this host.
    """
    from impala._thrift_gen.TCLIService.ttypes import TOpenSessionReq, TProtocolVersion

    request = TOpenSessionReq(
        client_protocol=TProtocolVersion.HIVE_CLI_SERVICE_PROTOCOL_V6,
        username=user_of(config),
        configuration=_options(config, database),
    )

    def ask(wire: HS2Connection) -> tuple[Any, Mapping[str, str]]:
        # A session that was opened and not heard of ends by itself: nothing keeps a connection to it.
        response = wire.call("OpenSession", request)
        problem = status_error(response)
        if problem:
            raise refusal(f"refused a session: {problem}")
        return response.sessionHandle, response.configuration or {}

    return _connected(node, config, password, ask)


def attach(node: Node, config: SessionConfig, password: str | None, guid: bytes, secret: bytes) -> Opened:
    """Connect, log in and ask for this session: from now on it has a connection again, and its time does not run out.

    :raises NodeRefused: the node cannot be reached, or does not know the session. :raises ConfigError: as above.
    """
    from impala._thrift_gen.TCLIService.ttypes import TGetInfoReq, TGetInfoType, THandleIdentifier, TSessionHandle

    handle = TSessionHandle(THandleIdentifier(guid, secret))

    def ask(wire: HS2Connection) -> tuple[Any, Mapping[str, str]]:
        problem = status_error(wire.call("GetInfo", TGetInfoReq(handle, TGetInfoType.CLI_SERVER_NAME)))
        if problem and "being shut down" not in problem:  # a draining one still knows its sessions
            raise refusal(problem)
        return handle, {}

    return _connected(node, config, password, ask)


def _connected(
    node: Node,
    config: SessionConfig,
    password: str | None,
    ask: Callable[[HS2Connection], tuple[Any, Mapping[str, str]]],
) -> Opened:
    start = time.monotonic()
    try:
        try:
            return _asked(node, config, password, start, ask)
        except UnreadableReply as error:
            log.warning("%s, and is asked again over another connection: %s", node.address, error)
            return _asked(node, config, password, start, ask)
    except NodeRefused:
        raise
    except Exception as error:
        raise sort_open_failure(error, node, config, time.monotonic() - start) from error


def _asked(
    node: Node,
    config: SessionConfig,
    password: str | None,
    start: float,
    ask: Callable[[HS2Connection], tuple[Any, Mapping[str, str]]],
) -> Opened:
    wire = HS2Connection(node, config, password, config.open_timeout)
    try:
        wire.limit(config.open_timeout - (time.monotonic() - start))
        return wire, *ask(wire)
    except BaseException:  # a task's time limit may come here too
        wire.close()
        raise


def _options(config: SessionConfig, database: str | None) -> Mapping[str, str]:
    """OpenSession's configuration: the query options, and the database without a statement of its own."""
    options = {"QUERY_TIMEOUT_S": str(math.ceil(config.reconnect_timeout))}  # 0 would be: never
    for key, value in config.query_options.items():
        options[key.upper()] = str(value).lower() if isinstance(value, bool) else str(value)
    database = database or config.database
    if database:
        options["use:database"] = database
    return options
