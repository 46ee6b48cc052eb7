"""One HiveServer2 session on one coordinator: opened, kept through broken connections, used, ended.

Knows how impyla and thrift fail. Knows no scripts: what runs several statements over several nodes is in ``script``.
May import ``core``, ``impala.sql``, ``impala.web`` and ``impala.statement``.

Read ``ids`` (what is said of a statement), ``replies``, ``connection`` and ``connection_failure`` (what its failures
mean); then ``reconnecting_client``, which a session talks through; then ``operation`` (the statement under way, its
poll loop) and ``page_proof`` and ``statement_lookup`` (one whose answer was lost); then ``session``, which puts them
together, and ``session_factory``, which opens sessions by a configuration. ``cursor`` is the DB-API over a session,
``refusals`` what is made of nodes that take no session.
"""
