"""The debug web port: Impala's pages as JSON, with the numbers this coordinator really has."""

from __future__ import annotations

import html
import json
import os
import resource
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from airflow_provider_impala_lb.sandbox.coordinator import VERSION, Coordinator
from airflow_provider_impala_lb.sandbox.flags import Flags
from airflow_provider_impala_lb.sandbox.operation import Operation
from airflow_provider_impala_lb.sandbox.profile import impala_state, moment, profile_text
from airflow_provider_impala_lb.sandbox.registry import registered

Parameters = dict[str, str]
_STATEMENT_SIZE = 250


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def start_web(coordinator: Coordinator, address: tuple[str, int]) -> int:
    """Serve the pages in the background; the port."""
    pages = Pages(coordinator)

    class Request(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            parameters = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            status, kind, body = pages.answer(parts.path, parameters)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Pollers ask all the time."""

    server = _Server(address, Request)
    threading.Thread(target=server.serve_forever, args=(3600,), name="web", daemon=True).start()
    return int(server.server_address[1])


class Pages:
    """What each path answers: status, content type, body."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._pages: dict[str, Callable[[Parameters], dict[str, Any]]] = {
            "/": self._root,
            "/jsonmetrics": self._metrics,
            "/backends": self._backends,
            "/varz": self._varz,
            "/queries": self._queries,
            "/sessions": self._sessions,
            "/query_plan": self._profile,
            "/query_profile": self._profile,
            "/inflight_query_ids": self._inflight,
            "/cancel_query": self._cancel,
            "/close_session": self._close_session,
        }

    def answer(self, path: str, parameters: Parameters) -> tuple[int, str, bytes]:
        if path == "/healthz":
            return 200, "text/plain", b"OK"
        page = self._pages.get(path)
        if page is None:
            return 404, "text/plain", b"No URI handler for " + path.encode()
        content = page(parameters)
        if path == "/inflight_query_ids" and "json" not in parameters:
            return 200, "text/plain", content["contents"].encode()
        if "json" in parameters:
            common = {"__common__": {"process-name": "impalad", "navbar": []}}
            return 200, "application/json", json.dumps({**common, **content}, indent="\t").encode()
        text = content.get("profile") or content.get("contents") or json.dumps(content, indent=2)
        return 200, "text/html", f"<!DOCTYPE html><title>impalad</title><pre>{html.escape(text)}</pre>".encode()

    def _root(self, _: Parameters) -> dict[str, Any]:
        coordinator = self._coordinator
        content: dict[str, Any] = {
            "version": VERSION,
            "process_start_time": moment(coordinator.started),
            "impala_server_mode": True,
            "is_coordinator": True,
            "is_executor": True,
            "use_local_catalog": False,
            "is_quiescing": coordinator.shutdown is not None,
        }
        if coordinator.shutdown is not None:
            content["shutdown_status"] = coordinator.shutdown_status()
        return content

    def _metrics(self, _: Parameters) -> dict[str, Any]:
        c = self._coordinator
        view = c.catalog.view()
        thrift = "impala.thrift-server.hiveserver2-frontend"
        return {
            "process-start-time": moment(c.started),
            "impala-server.ready": True,
            "impala-server.version": VERSION,
            "impala-server.num-open-hiveserver2-sessions": len(c.sessions),
            "impala-server.num-open-beeswax-sessions": 0,
            "impala-server.num-queries": c.counters["queries"],
            "impala-server.num-queries-registered": len(c.queries),
            "impala-server.num-queries-expired": c.counters["queries-expired"],
            "impala-server.num-sessions-expired": c.counters["sessions-expired"],
            "impala-server.backend-num-queries-executing": c.executing(),
            "impala-server.num-fragments-in-flight": c.executing(),
            f"{thrift}.connections-in-use": len(c.connections),
            f"{thrift}.total-connections": c.counters["connections"],
            f"{thrift}.connection-setup-queue-size": len(c.setup_queue),
            f"{thrift}.timedout-cnxn-requests": c.counters["setup-timeouts"],
            "catalog.ready": True,
            "catalog.curr-version": c.catalog.version,
            "catalog.curr-topic": c.catalog.topic,
            "catalog.curr-serviceid": c.catalog.service_id,
            "catalog.num-databases": sum(1 for item in view.values() if not item.table),
            "catalog.num-tables": sum(1 for item in view.values() if item.table),
            "statestore-subscriber.connected": True,
            "cluster-membership.backends.total": len(registered(c.directory)),
            "memory.rss": _resident(),
            "mem-tracker.process.limit": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "thread-manager.running-threads": threading.active_count(),
        }

    def _backends(self, _: Parameters) -> dict[str, Any]:
        rows = []
        for node in registered(self._coordinator.directory):
            own = node["address"] == self._coordinator.address
            rows.append(
                {
                    "address": node["address"],
                    "krpc_address": node["address"],
                    "webserver_url": node["web"],
                    "is_coordinator": True,
                    "is_executor": True,
                    "is_quiescing": own and self._coordinator.shutdown is not None,
                    "is_blacklisted": False,
                    "is_active": not (own and self._coordinator.shutdown is not None),
                    "num_admitted": self._coordinator.executing() if own else 0,
                    "process_start_time": moment(node["started"]),
                    "version": VERSION,
                }
            )
        quiescing = sum(1 for row in rows if row["is_quiescing"])
        return {"backends": rows, "num_active_backends": len(rows) - quiescing, "num_quiescing_backends": quiescing}

    def _varz(self, _: Parameters) -> dict[str, Any]:
        host, port = self._coordinator.address.rsplit(":", 1)
        web = self._coordinator.web_address.rsplit(":", 1)[1]
        defaults = {**vars(Flags()), "hs2_port": 21050, "webserver_port": 25000, "hostname": "", "is_coordinator": True}
        current = {
            **vars(self._coordinator.flags),
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
        c = self._coordinator
        running = [_query_row(operation) for operation in list(c.queries.values())]
        closed = [_query_row(operation) for operation in reversed(list(c.closed_queries.values()))]
        return {
            "in_flight_queries": running,
            "num_in_flight_queries": len(running),
            "num_executing_queries": sum(1 for row in running if row["executing"]),
            "num_waiting_queries": sum(1 for row in running if row["waiting"]),
            "completed_queries": closed,
            "completed_log_size": 200,
            "query_locations": [],
        }

    def _sessions(self, _: Parameters) -> dict[str, Any]:
        c = self._coordinator
        sessions, connections = list(c.sessions.values()), list(c.connections.values())
        rows = [
            {
                "type": "HIVESERVER2",
                "inflight_queries": len(session.operations),
                "total_queries": session.statements,
                "user": session.user,
                "delegated_user": "",
                "session_id": session.id,
                "connection_ids": "".join(f"{each}\n" for each in sorted(session.connections)),
                "default_database": session.database,
                "start_time": moment(session.opened)[:19],
                "start_time_sort": int(session.opened * 1000),
                "last_accessed": moment(session.last_used)[:19],
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
        operation = self._coordinator.find(query_id)
        if operation is None:
            return {
                "error": f"Invalid or unknown query handle: {query_id}.",
                "contents": "Invalid or unknown query handle.",
            }
        return {
            "query_id": query_id,
            "stmt": operation.sql,
            "status": operation.error or "OK",
            "profile": profile_text(operation),
        }

    def _inflight(self, _: Parameters) -> dict[str, Any]:
        return {"contents": "".join(f"{operation.id}\n" for operation in list(self._coordinator.queries.values()))}

    def _cancel(self, parameters: Parameters) -> dict[str, Any]:
        query_id = parameters.get("query_id", "")
        operation = next((each for each in list(self._coordinator.queries.values()) if each.id == query_id), None)
        if operation is None:
            return {"error": f"Invalid or unknown query handle: {query_id}.", "contents": "Error: unknown query."}
        operation.cancel("Cancelled from Impala's debug web interface")
        return {"contents": "Query cancellation successful"}

    def _close_session(self, parameters: Parameters) -> dict[str, Any]:
        session_id = parameters.get("session_id", "")
        session = next((each for each in list(self._coordinator.sessions.values()) if each.id == session_id), None)
        if session is None:
            return {"error": f"Invalid session id: {session_id}", "contents": "Error: unknown session."}
        self._coordinator.remove_session(session, "Session closed from Impala's debug web interface")
        return {"contents": "Session closed successfully"}


def _query_row(operation: Operation) -> dict[str, Any]:
    done, total = operation.progress
    part = 100 * done // total
    return {
        "effective_user": operation.session.user,
        "default_db": operation.database,
        "stmt": operation.sql[:_STATEMENT_SIZE],
        "stmt_type": operation.plan.kind if operation.plan else "N/A",
        "start_time": moment(operation.started),
        "end_time": moment(operation.ended),
        "duration": f"{((operation.ended or time.time()) - operation.started) * 1000:.0f}ms",
        "progress": f"{done} / {total} ({part:>3}%)",
        "query_progress": f"{done} / {total} ({part:>3}%)",
        "state": impala_state(operation),
        "rows_fetched": operation.rows_fetched,
        "query_id": operation.id,
        "last_event": "Query submitted" if operation.running else "Unregister query",
        "waiting": not operation.running,
        "executing": operation.running,
        "resource_pool": operation.options.get("REQUEST_POOL", "default-pool"),
    }


def _flag(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _resident() -> int:
    """Bytes."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
