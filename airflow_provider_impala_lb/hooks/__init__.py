"""What a running Airflow process asks the balancer through: the hook, and what it reads out of Airflow for it.

Knows Airflow (connections, contexts, XComs, common-sql) and gives it the balancer. May import everything below:
`errors`, `core`, `stores`, `impala`, `balancer`, `doctor`, and `get_provider_info`; not `operators`, `triggers`, `cli`.

Read :mod:`.task_identity` first (which task runs, whose lease it is), then :mod:`.airflow_connection` (a connection as
a configuration), :mod:`.resolve_stick_to` (the host that a running task's ``stick_to`` names), :mod:`.impala_lb` (the
hook), :mod:`.killed_task` and :mod:`.earlier_attempts` (what it runs ends with its task; what an attempt has left ends
before the next), :mod:`.deferred_script` (what passes between a worker and a trigger), :mod:`.insert_statements` and
:mod:`.dialect` (what common-sql asks of it beside running SQL).
"""
