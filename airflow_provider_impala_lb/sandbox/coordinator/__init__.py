"""One coordinator's state: its sessions, and its statements from their registration to the query log.

It may import `sandbox/common` and `sandbox/sql`. To be read in this order: `session.py`, `operation.py` (one
statement), `coordinator.py` (all of them, and who may use them). Then, as needed: `graceful_shutdown.py`, `profile.py`,
`ids.py` (handles).
"""
