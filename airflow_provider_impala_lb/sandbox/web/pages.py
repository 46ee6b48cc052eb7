"""The debug web port: Impala's pages as JSON, with the numbers this coordinator really has."""

from __future__ import annotations

import html
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from airflow_provider_impala_lb.sandbox.common.errors import Refused
from airflow_provider_impala_lb.sandbox.common.flags import Flags
from airflow_provider_impala_lb.sandbox.common.web_access import WebAccess, open_page
from airflow_provider_impala_lb.sandbox.coordinator.coordinator import Coordinator
from airflow_provider_impala_lb.sandbox.coordinator.profile import page_time
from airflow_provider_impala_lb.sandbox.coordinator.query_log import QueryRecord
from airflow_provider_impala_lb.sandbox.coordinator.registry import registered
from airflow_provider_impala_lb.sandbox.web.metrics import metrics_of, metrics_tree, prometheus

Parameters = dict[str, str]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def start_web(coordinator: Coordinator, address: tuple[str, int], access: WebAccess, metrics_only: bool = False) -> int:
    """Serve the pages in the background, until the process ends.

    :param coordinator: whose pages they are.
    :param address: to listen on, host and port.
    :param access: how they are reached.
    :param metrics_only: Impala's metrics port: without login and TLS, and without the other pages; default False.
    :returns: the port.
    :raises OSError: the port is taken.
    """
    pages = Pages(coordinator, metrics_only)

    class Request(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            challenge = None if metrics_only else access.challenge(self.command, self.path, self.headers)
            if challenge is not None:
                self._answer(401, "text/plain", b"Authentication required.", {"WWW-Authenticate": challenge})
                return
            parts = urlsplit(self.path)
            parameters = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            self._answer(*pages.answer(parts.path, parameters))

        do_HEAD = do_GET

        def _answer(
            self, status: int, kind: str, body: bytes, headers: Mapping[str, str] = MappingProxyType({})
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Pollers ask all the time."""

    server = _Server(address, Request)
    context = None if metrics_only else access.context()
    if context is not None:
        # The handshake is the handler's thread's: a client that is slow with it must not hold the others up.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(3600,), name="web", daemon=True).start()
    return int(server.server_address[1])


class Pages:
    """What each path answers: status, content type, body.

    :param coordinator: whose pages they are.
    :param metrics_only: only the metrics; default False.
    """

    def __init__(self, coordinator: Coordinator, metrics_only: bool = False) -> None:
        self._coordinator = coordinator
        self._pages: dict[str, Callable[[Parameters], dict[str, Any]]] = {
            "/": self._root,
            "/jsonmetrics": self._metrics,
            "/metrics": self._metrics_tree,
            "/backends": self._backends,
            "/varz": self._varz,
            "/queries": self._queries,
            "/sessions": self._sessions,
            "/query_plan": self._profile,
            "/query_profile": self._profile,
            "/inflight_query_ids": self._inflight,
            "/cancel_query": self._cancel,
            "/kill_query": self._kill,
            "/close_session": self._close_session,
        }
        if metrics_only:
            self._pages = {path: self._pages[path] for path in ("/jsonmetrics", "/metrics")}

    def answer(self, path: str, parameters: Parameters) -> tuple[int, str, bytes]:
        """The answer to a request.

        :param path: without the query.
        :param parameters: of the query; ``json`` in them asks for JSON.
        :returns: status, content type, body.
        """
        if path == "/healthz":
            return 200, "text/plain", b"OK"
        if path == "/metrics_prometheus":
            return 200, "text/plain; version=0.0.4", prometheus(metrics_of(self._coordinator)).encode()
        page = self._pages.get(path)
        if page is None:
            return 404, "text/plain", b"No URI handler for " + path.encode()
        if path == "/queries":
            changed = self._changed_queries_page(parameters)
            if changed is not None:
                return changed
        content = page(parameters)
        if path == "/inflight_query_ids" and "json" not in parameters:
            return 200, "text/plain", content["contents"].encode()
        if "json" in parameters:
            common = {"__common__": {"process-name": "impalad", "navbar": []}}
            return 200, "application/json", json.dumps({**common, **content}, indent="\t").encode()
        text = content.get("profile") or content.get("contents") or json.dumps(content, indent=2)
        return 200, "text/html", f"<!DOCTYPE html><title>impalad</title><pre>{html.escape(text)}</pre>".encode()

    def _changed_queries_page(self, parameters: Parameters) -> tuple[int, str, bytes] | None:
        """What a test wants the page to be; None: what it is."""
        switches = self._coordinator.services.switches
        for _, setting in switches.at("queries_page"):
            if setting.action == "copy":
                return 200, "application/json", setting.text.encode()
            if setting.action == "of":
                query = urlencode(parameters)
                with open_page(f"{setting.text}/queries?{query}", self._coordinator.web_key, timeout=10) as page:
                    return page.status, page.headers.get_content_type(), page.read()
        try:
            switches.reach("queries_page", "page")
        except Refused as refused:
            return 500, "text/plain", str(refused).encode()
        return None

    def _root(self, _: Parameters) -> dict[str, Any]:
        coordinator = self._coordinator
        content: dict[str, Any] = {
            "version": self._coordinator.version,
            "process_start_time": page_time(coordinator.started),
            "impala_server_mode": True,
            "is_coordinator": True,
            "is_executor": True,
            "use_local_catalog": False,
            "is_quiescing": coordinator.shutdown.begun,
        }
        if coordinator.shutdown.begun:
            content["shutdown_status"] = coordinator.shutdown_status()
        return content

    def _metrics(self, _: Parameters) -> dict[str, Any]:
        return metrics_of(self._coordinator)

    def _metrics_tree(self, _: Parameters) -> dict[str, Any]:
        return metrics_tree(metrics_of(self._coordinator))

    def _backends(self, _: Parameters) -> dict[str, Any]:
        rows = []
        for node in registered(self._coordinator.directory):
            own = node.address == self._coordinator.address
            rows.append(
                {
                    "address": node.address,
                    "krpc_address": node.address,
                    "webserver_url": node.web,
                    "is_coordinator": True,
                    "is_executor": True,
                    "is_quiescing": own and self._coordinator.shutdown.begun,
                    "is_blacklisted": False,
                    "is_active": not (own and self._coordinator.shutdown.begun),
                    "num_admitted": self._coordinator.executing() if own else 0,
                    "process_start_time": page_time(node.started),
                    "version": self._coordinator.version,
                }
            )
        quiescing = sum(1 for row in rows if row["is_quiescing"])
        return {"backends": rows, "num_active_backends": len(rows) - quiescing, "num_quiescing_backends": quiescing}

    def _varz(self, _: Parameters) -> dict[str, Any]:
        host, port = self._coordinator.address.rsplit(":", 1)
        web = self._coordinator.web_address.rsplit(":", 1)[1]
        log_size = self._coordinator.behaviour.query_log_size
        defaults = {**vars(Flags()), "query_log_size": log_size, "hs2_port": 21050, "webserver_port": 25000}
        defaults |= {"hostname": "", "is_coordinator": True}
        current = {
            **vars(self._coordinator.flags),
            "query_log_size": self._coordinator.statements.log.most,
            "hs2_port": port,
            "webserver_port": web,
            "hostname": host,
            "is_coordinator": True,
        }
        flags = [
            {"name": name, "default": _flag(defaults[name]), "current": _flag(value), "experimental": False}
            for name, value in current.items()
        ]
        return {"title": "Command-line Flags", "flags": flags}

    def _queries(self, _: Parameters) -> dict[str, Any]:
        """First those in flight, then the log: a record comes into the log before its statement leaves the others,
        so none is missed in between (``ImpalaHttpHandler::QueryStateHandler``)."""
        c = self._coordinator
        records = [QueryRecord.of(operation, c.address) for operation in c.statements.registered()]
        records.sort(key=lambda record: record.started, reverse=True)
        running = [_query_row(record, c, True) for record in records]
        shown = {record.id for record in records}
        as_in_flight = not c.behaviour.completed_wait_for_nothing
        kept = [record for record in c.statements.log.records() if record.id not in shown]
        closed = [_query_row(record, c, as_in_flight) for record in kept]
        return {
            "in_flight_queries": running,
            "num_in_flight_queries": len(running),
            "num_executing_queries": sum(1 for row in running if row["executing"]),
            "num_waiting_queries": sum(1 for row in running if row["waiting"]),
            "completed_queries": closed,
            "completed_log_size": c.statements.log.most,
            **({"completed_log_size_in_bytes": c.statements.log.most_bytes} if c.behaviour.query_log_has_bytes else {}),
            "query_locations": [],
        }

    def _sessions(self, _: Parameters) -> dict[str, Any]:
        c = self._coordinator
        sessions, connections = list(c.sessions.values()), list(c.connections.values())
        rows = [
            {
                "type": "HIVESERVER2",
                "inflight_queries": len(session.operation_guids),
                "total_queries": session.statements,
                "user": session.user,
                "delegated_user": "",
                "session_id": session.id,
                "connection_ids": "".join(f"{each}\n" for each in sorted(session.connections)),
                "default_database": session.database,
                "start_time": page_time(session.opened)[:19],
                "start_time_sort": int(session.opened * 1000),
                "last_accessed": page_time(session.last_used)[:19],
                "last_accessed_sort": int(session.last_used * 1000),
                "session_timeout": session.idle_timeout,
                "expired": session.expired,
                "closed": session.closed,
                "ref_count": session.calls,
            }
            for session in sessions
        ]
        users = sorted({session.user for session in sessions}) if c.flags.max_hs2_sessions_per_user > 0 else []
        return {
            "sessions": rows,
            "num_sessions": len(rows),
            "num_active": sum(1 for row in rows if not row["expired"]),
            "num_inactive": sum(1 for row in rows if row["expired"]),
            "connections": [
                {
                    "connection_id": each.id,
                    "user": each.user,
                    "delegated_user": "",
                    "network_address": each.address,
                    "server_name": "hiveserver2-frontend",
                    "session_ids": "".join(f"{s.id}\n" for s in sessions if each.id in s.connections),
                }
                for each in connections
            ],
            "num_connections": len(connections),
            "num_hiveserver2_frontend_connections": len(connections),
            "users": [{"user": user, "session_count": sum(1 for s in sessions if s.user == user)} for user in users],
        }

    def _profile(self, parameters: Parameters) -> dict[str, Any]:
        query_id = parameters.get("query_id", "")
        statements = self._coordinator.statements
        operation, kept = statements.find(query_id), statements.log.find(query_id)
        if operation is not None:
            kept = QueryRecord.of(operation, self._coordinator.address)
        if kept is None:
            return {
                "error": f"Invalid or unknown query handle: {query_id}.",
                "contents": "Invalid or unknown query handle.",
            }
        return {"query_id": query_id, "stmt": kept.sql, "status": kept.status, "profile": kept.profile}

    def _inflight(self, _: Parameters) -> dict[str, Any]:
        return {"contents": "".join(f"{operation.id}\n" for operation in self._coordinator.statements.registered())}

    def _cancel(self, parameters: Parameters) -> dict[str, Any]:
        """It unregisters the statement, too (``ImpalaHttpHandler::CancelQueryHandler``)."""
        query_id = parameters.get("query_id", "")
        operation = self._coordinator.statements.find(query_id)
        reason = self._coordinator.behaviour.cancelled_by_page("127.0.0.1:0")
        try:
            if operation is None:
                raise Refused(self._coordinator.behaviour.unknown_handle(query_id))
            driver = self._coordinator.statements.driver(operation.guid)
            self._coordinator.cancel_and_unregister(driver, reason)
        except Refused as refused:
            return {"error": str(refused)}
        return {"contents": "Query cancellation successful"}

    def _kill(self, parameters: Parameters) -> dict[str, Any]:
        """No page of Impala's, but its call from coordinator to coordinator (``ControlService::KillQuery``)."""
        try:
            return {"killed": self._coordinator.kill_query_here(parameters["query_id"], parameters["user"])}
        except Refused as refused:
            return {"error": str(refused)}

    def _close_session(self, parameters: Parameters) -> dict[str, Any]:
        session_id = parameters.get("session_id", "")
        session = next((each for each in list(self._coordinator.sessions.values()) if each.id == session_id), None)
        if session is None:
            return {"error": f"Invalid session id: {session_id}"}
        self._coordinator.remove_session(session, "Session closed")
        return {"contents": f"Session {session_id} closed successfully"}


def _query_row(record: QueryRecord, coordinator: Coordinator, inflight: bool) -> dict[str, Any]:
    size = coordinator.flags.query_stmt_size if coordinator.behaviour.page_cuts_statements else 0
    progress = "N/A"
    if record.progress is not None:
        done, total = record.progress
        progress = f"{done} / {total} ({100 * done // total:>3}%)"
    return {
        "effective_user": record.user,
        "default_db": record.database,
        "stmt": record.shown_sql(size),
        "stmt_type": record.kind,
        "start_time": page_time(record.started),
        "end_time": page_time(record.ended),
        "duration": f"{record.duration * 1000:.0f}ms",
        "progress": progress,
        "query_progress": progress,
        "state": record.state,
        "rows_fetched": record.rows_fetched,
        "query_id": record.id,
        "last_event": record.last_event,
        "waiting": inflight and record.waits_for_close,
        "executing": inflight and not record.waits_for_close,
        "resource_pool": record.pool,
    }


def _flag(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
