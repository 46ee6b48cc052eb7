"""A practice cluster on loopback: coordinators that speak HiveServer2, for the demo and for tests of your own DAGs.

::

    from airflow_provider_impala_lb.sandbox import Sandbox

    with Sandbox(nodes=3, lag=2.0) as cluster:
        os.environ["AIRFLOW_CONN_IMPALA_LB_DEFAULT"] = cluster.connection
        dag.test()
        assert [entry["sql"] for entry in cluster.nodes[0].journal() if "sql" in entry] == [...]

What is like Impala, because it is what a client of several coordinators stumbles over: each coordinator is a process
with its own sessions, which outlive their TCP connections; handles with secrets; the connection limit; graceful
shutdown; the texts of the errors; the debug web pages; a statement's life, from its registration to the query log (see
:mod:`airflow_provider_impala_lb.sandbox.coordinator`), and what older versions do otherwise; and metadata that reach
the other coordinators late (see :mod:`airflow_provider_impala_lb.sandbox.common.metadata_lag`). A test can hold, delay
or fail a statement at each point of its life: :meth:`SandboxNode.hold`.

What it is NOT: it is not Impala. DuckDB runs each statement, in the coordinator that got it, over Parquet or text
files in a local directory; the catalog service is a file, and another coordinator does the DDL that one had asked of
it before it died.
Admission counts the statements of one coordinator only, and no memory. No executors, no Kudu, Iceberg, HBase or ACID
tables, no complex types, no Kerberos or LDAP, no TLS but on the web pages, no roles and grants, no HTTP transport.
Types and functions are those of everyday scripts, not all; what it lacks it refuses. It listens on 127.0.0.1 only,
behind a login with a random password, and SQL reaches no file outside of its directory but in those of ``allow``.
Never keep data in it that you would miss, and never measure speed with it.

It imports nothing of the rest of the package but the errors. A folder imports only those before it: `common`, `sql`,
`coordinator`, then `server` and `web`. `node_main.py` puts them together to a coordinator's process; `node_template.py`
forks it, `node_starter.py` asks for that; `node_process.py` is the coordinator as the process that started it sees it;
`cluster.py` is all of them, `pytest_plugin.py` the fixture. To be read from `cluster.py` on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Sandbox", "SandboxNode", "serve"]

if TYPE_CHECKING:
    from airflow_provider_impala_lb.sandbox.cluster import Sandbox, serve
    from airflow_provider_impala_lb.sandbox.node_process import SandboxNode


def __getattr__(name: str) -> Any:
    if name in ("Sandbox", "serve"):
        from airflow_provider_impala_lb.sandbox import cluster

        return getattr(cluster, name)
    if name == "SandboxNode":
        from airflow_provider_impala_lb.sandbox.node_process import SandboxNode

        return SandboxNode
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
