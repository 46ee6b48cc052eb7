"""The operator: what a DAG file names, and what its tasks do with the hook.

Knows how Airflow runs, defers, retries and kills a task. May import `hooks`, `triggers` and everything below them; not
`cli`.

Read :mod:`.impala_lb` first (the operator), then :mod:`.parse_stick_to` (what ``stick_to`` refers to when the DAG file
is read), :mod:`.run_xcoms` (what is pushed of a script), :mod:`.xcom_values` (values that XCom would change),
:mod:`.no_retry` (a task that must not be retried).
"""
