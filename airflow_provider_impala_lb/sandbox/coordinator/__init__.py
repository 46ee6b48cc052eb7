"""One coordinator's state: its sessions, and its statements from their registration to the query log.

It may import `sandbox/common` and `sandbox/sql`. To be read in this order: `session.py`, `operation.py` (one statement:
planned, admitted, run, cancelled), `statements.py` (all of them: registered, known to their sessions, unregistered,
archived), `query_log.py` (what is kept of them), `coordinator.py` (who may use them). Then, as needed: `admission.py`,
`time_limits.py`, `result_rows.py`, `graceful_shutdown.py`, `registry.py` (which coordinators there are), `profile.py`,
`ids.py` (handles).
"""
