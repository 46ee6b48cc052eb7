"""HiveServer2, by which clients reach a coordinator.

It may import `sandbox/common`, `sandbox/sql` and `sandbox/coordinator`. To be read in this order: `hs2_server.py`
(connections), `sasl.py` (who is at the other end), `hs2_handler.py` (the calls). Then, as needed: `row_encoding.py`
(rows on the wire), `jdbc_metadata.py` (GetTables and the like; the delay of metadata is `common/metadata_lag.py`).
"""
