"""A coordinator: its sessions and statements, and HiveServer2, by which clients reach them.

It may import `sandbox/common` and `sandbox/sql`. To be read in this order: `hs2_server.py` (connections), `sasl.py`
(who is at the other end), `hs2_handler.py` (the calls), `coordinator.py` (all state of the node), `session.py`,
`operation.py` (one statement from its start to its close). Then, as needed: `ids.py` (handles), `row_encoding.py` (rows
on the wire), `jdbc_metadata.py` (GetTables and the like; the delay of metadata is `common/metadata_lag.py`),
`profile.py`, `graceful_shutdown.py`.
"""
