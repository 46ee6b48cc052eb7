"""The load of a node: by its own web server's pages and by its host's exporter, as one reading."""

from __future__ import annotations

import json
import math
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_impala_lb.core.config.model import LoadConfig, Node
from airflow_provider_impala_lb.core.state.load_report import ExporterCounters, LoadSample, ProbeResult
from airflow_provider_impala_lb.impala.web.http_fetch import Fetch, ProbeFailed, fetch_all, tls_context
from airflow_provider_impala_lb.impala.web.node_exporter import Figures, host_shares
from airflow_provider_impala_lb.impala.web.page_address import check_host, named_pages

__all__ = ["NotACoordinator", "ProbeFailed", "probe", "probe_all"]

_ROOT, _METRICS, _FLAGS = "/?json", "/jsonmetrics?json", "/varz?json"
_CONNECTIONS = "impala.thrift-server.hiveserver2-frontend.connections-in-use"

# node -> (when its process started, its fe_service_threads): flags do not change while a process lives.
_limits: dict[str, tuple[str, float]] = {}


class NotACoordinator(ProbeFailed):
    """An executor: it can take no session."""


def probe(
    node: Node,
    settings: LoadConfig,
    password: str | None,
    *,
    before: ExporterCounters | None = None,
    seconds: float = 1.0,
) -> ProbeResult:
    """The load of one node now. See :func:`probe_all`.

    :param node: which one.
    :param settings: as there.
    :param password: as there.
    :param before: counters of its last reading; default None.
    :param seconds: as there; default 1.
    :raises ProbeFailed: it did not answer in time, or is no coordinator (:class:`NotACoordinator`).
    """
    found = _probe([node], settings, password, seconds, {node.address: before} if before else {}, {})[node.address]
    if isinstance(found, ProbeFailed):
        raise found
    return found


def probe_all(
    nodes: Iterable[Node],
    settings: LoadConfig,
    password: str | None,
    seconds: float = 1.0,
    *,
    before: Mapping[str, ExporterCounters] | None = None,
    named: Mapping[str, str] | None = None,
) -> dict[str, ProbeResult | str]:
    """The load of each node (``host:port``) now, or why it is not known; all nodes at once. Never raises.

    A node's sources are its ``web`` (may want a login: ``settings.web_auth``), its ``metrics`` port (never does, but
    has no page that tells of a shutdown: without ``web`` beside it, ``quiescing`` is never true, and the
    ``connections`` share is missing, whose limit is on another page), and its ``exporter``. Of Impala's two the metrics
    port is preferred. One that is configured must answer: a dead coordinator on an idle host is not idle. What else
    does not answer is in ``missing`` of the reading.

    :param nodes: which ones.
    :param settings: how their web servers want a login.
    :param password: for digest and basic, or the token for bearer; None: there is none.
    :param seconds: default 1, for each node, all its pages together, whatever its servers do. The first call in a
        process also imports httpx. TLS with ``verify_cert`` and no ``ca_cert`` reads the system's certificates each
        time.
    :param before: counters of the last readings by node; default none, without which there is no share of ``disk``,
        and ``cpu`` is a guess.
    :param named: ``host:port`` of the pages by node, as its coordinator names them: there a node is asked, without a
        login, that has none of the three. Default none.
    """
    return {
        address: str(found) if isinstance(found, ProbeFailed) else found
        for address, found in _probe(nodes, settings, password, seconds, before or {}, named or {}).items()
    }


def _probe(
    nodes: Iterable[Node],
    settings: LoadConfig,
    password: str | None,
    seconds: float,
    before: Mapping[str, ExporterCounters],
    named: Mapping[str, str],
) -> dict[str, ProbeResult | ProbeFailed]:
    nodes = list(nodes)
    context: ssl.SSLContext | bool = False
    broken: ProbeFailed | None = None
    urls = [url for node in nodes for url in (node.web, node.metrics, node.exporter, named.get(node.address))]
    if any((url or "").startswith("https:") for url in urls):
        try:
            context = tls_context(settings)
        except ProbeFailed as error:
            broken = error
    fetches = {
        node.address: {} if broken else _fetches(node, settings, password, context, named.get(node.address))
        for node in nodes
    }
    fetch_all([fetch for sources in fetches.values() for fetch in sources.values()], seconds)
    found: dict[str, ProbeResult | ProbeFailed] = {}
    for node in nodes:
        try:
            if broken:
                raise broken
            found[node.address] = _reading(node, fetches[node.address], before.get(node.address))
        except ProbeFailed as error:
            found[node.address] = error
        except Exception as error:  # a page that nobody has thought of must not cost the other nodes their reports
            found[node.address] = ProbeFailed(f"{node.address}: {type(error).__name__} in what it said")
    return found


def _fetches(
    node: Node, settings: LoadConfig, password: str | None, context: ssl.SSLContext | bool, named: str | None
) -> dict[str, Fetch]:
    found = {}
    pages = None if node.web or node.metrics or node.exporter else named_pages(node, named)
    if pages:
        open_pages = LoadConfig()
        read = _web_pages(node, open_pages, None)

        def plan(fetch: Fetch) -> None:
            check_host(pages.url, pages.host)
            read(fetch)

        found["web"] = Fetch(pages.url, open_pages, plan, context=context)
    if node.metrics:
        found["metrics"] = Fetch(node.metrics.rstrip("/"), settings, _metrics_page, context=context)
    if node.web:
        login = password if settings.web_auth != "none" else None
        found["web"] = Fetch(
            node.web.rstrip("/"), settings, _web_pages(node, settings, password), context=context, login=login
        )
    if node.exporter:
        found["exporter"] = Fetch(node.exporter.rstrip("/"), settings, _exporter_page, context=context)
    return found


def _metrics_page(fetch: Fetch) -> None:
    fetch.get(_METRICS)


def _exporter_page(fetch: Fetch) -> None:
    fetch.get("" if urlsplit(fetch.url).path else "/metrics")


def _web_pages(node: Node, settings: LoadConfig, password: str | None) -> Callable[[Fetch], None]:
    def plan(fetch: Fetch) -> None:
        if settings.web_auth != "none" and not password:
            raise ProbeFailed(
                f"{fetch.url}: load.web_auth is {settings.web_auth}, but the environment has no IMPALA_LB_WEB_PASSWORD"
            )
        started = _started(_object(fetch, fetch.get(_ROOT)))
        if not node.metrics:
            fetch.get(_METRICS)
        if _limits.get(node.address, ("",))[0] != started:
            # Last, as the reading can do without it.
            flags = _object(fetch, fetch.get(_FLAGS)).get("flags", [])
            limit = next((flag["current"] for flag in flags if flag["name"] == "fe_service_threads"), 0)
            _limits[node.address] = started, float(limit)

    return plan


def _started(root: dict[str, Any]) -> str:
    return str(root.get("process_start_time", ""))


def _object(fetch: Fetch, body: bytes) -> dict[str, Any]:
    try:
        page = json.loads(body)
    except ValueError:
        page = None
    if not isinstance(page, dict):
        raise ProbeFailed(f"{fetch.url}: is not Impala's: no JSON")
    if "error" in page:
        raise ProbeFailed(f"{fetch.url}: {str(page['error'])[:200]}")
    return page


def _page(fetch: Fetch, path: str) -> dict[str, Any]:
    if path not in fetch.pages:
        raise fetch.failed or ProbeFailed(f"{fetch.url}: has no page {path}")
    return _object(fetch, fetch.pages[path])


def _reading(node: Node, fetches: dict[str, Fetch], before: ExporterCounters | None) -> ProbeResult:
    if not fetches:
        raise ProbeFailed(f"{node.address}: has no web, metrics or exporter URL, and its coordinator names none of use")
    web, metrics, exporter = fetches.get("web"), fetches.get("metrics"), fetches.get("exporter")
    sample, missing, connection_limit = LoadSample(), {}, 0.0
    if web:
        try:
            root = _page(web, _ROOT)
            if root.get("is_coordinator") is False:
                raise NotACoordinator(f"{node.address}: is an executor, not a coordinator")
            if "is_quiescing" not in root and "process_start_time" not in root:
                raise ProbeFailed(f"{web.url}: is not Impala's: neither is_quiescing nor process_start_time on /?json")
            sample.quiescing = root.get("is_quiescing") is True
            of_start, limit = _limits.get(node.address, ("", 0.0))
            connection_limit = limit if of_start == _started(root) else 0.0
        except NotACoordinator:
            raise
        except ProbeFailed as error:
            if not metrics:
                raise
            missing["web"] = str(error)
    if metrics or web:
        source = metrics or web
        assert source is not None
        _add_impala(sample, _page(source, _METRICS), connection_limit, source.url)
    counters = before
    if exporter:
        try:
            page = next(iter(exporter.pages.values()), None)
            if page is None:
                raise exporter.failed or ProbeFailed(f"{exporter.url}: said nothing")
            shares, counters = host_shares(Figures(page.decode(errors="replace"), exporter.url), before)
            _merge(sample.shares, shares)
        except ProbeFailed as error:
            if not metrics and not web:
                raise
            missing["exporter"] = str(error)
    sample.shares = {name: min(1.0, max(0.0, share)) for name, share in sample.shares.items()}
    return ProbeResult(sample, counters, missing)


def _merge(shares: dict[str, float], more: dict[str, float]) -> None:
    """Impala may use memory up to its own limit, and only while its host has some: the smaller share counts."""
    for name, share in more.items():
        shares[name] = min(share, shares.get(name, share))


def _add_impala(sample: LoadSample, metrics: dict[str, Any], connection_limit: float, url: str) -> None:
    """The figures of ``/jsonmetrics``.

    * ``memory``: 1 - memory.total-used / mem-tracker.process.limit. Not memory.rss: Impala holds total-used (what its
      allocator and buffer pool gave out) against that limit, and refuses queries by it (``ExecEnv::InitMemTracker``,
      be/src/runtime/exec-env.cc); rss has the JVM's heap in it too, which does not shrink and has its own limit.
      It is what is left to go by in a version that does not say total-used.
    * ``heap``: of the JVM, which plans queries and caches the catalog.
    * ``connections``: of the binary HiveServer2 port, which has ``fe_service_threads``; the next one hangs.
    * ``admission``: 1 - queries queued here / queries that may queue, all pools with a limit together: a pool that is
      full refuses its own users on any coordinator, which is no reason to keep the others away from this one.
    """
    if metrics.get("impala-server.ready") is not True:
        if "impala-server.ready" in metrics:
            raise ProbeFailed(f"{url}: impala-server.ready is false: it is starting, or has lost its statestore")
        raise ProbeFailed(f"{url}: is not a coordinator's: no impala-server.ready on /jsonmetrics")

    def number(key: str) -> float | None:
        value = metrics.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            return None
        return float(value)

    def share(name: str, used: float | None, limit: float | None) -> None:
        if used is not None and limit is not None and limit > 0:
            sample.shares[name] = 1 - used / limit

    sample.queries = number("impala-server.num-queries-registered")
    sessions = [number(f"impala-server.num-open-{kind}-sessions") for kind in ("hiveserver2", "beeswax")]
    if any(each is not None for each in sessions):
        sample.sessions = int(sum(each or 0 for each in sessions))
    used = number("memory.total-used")
    share("memory", number("memory.rss") if used is None else used, number("mem-tracker.process.limit"))
    share("heap", number("jvm.heap.current-usage-bytes"), number("jvm.heap.max-usage-bytes"))
    share("connections", number(_CONNECTIONS), connection_limit)
    prefix = "admission-controller.local-num-queued."
    waiting = {key[len(prefix) :]: number(key) or 0.0 for key in metrics if key.startswith(prefix)}
    # 0 or less: a pool that never queues (--default_pool_max_queued, be/src/scheduling/request-pool-service.cc).
    limits = {pool: number(f"admission-controller.pool-max-queued.{pool}") or 0.0 for pool in waiting}
    sample.queued = int(sum(waiting.values()))
    sample.shares["admission"] = 1.0
    limited = [pool for pool in waiting if limits[pool] > 0]
    share("admission", sum(waiting[pool] for pool in limited), sum(limits[pool] for pool in limited))
