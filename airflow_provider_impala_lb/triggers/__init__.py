"""What goes on for a task while no worker does.

Knows Airflow's triggerer. May import `hooks` and everything below; not `operators`, which import this, nor `cli`.
Airflow's database holds these classes by their paths, and their arguments: both stay from one version to the next.

Read :mod:`.wait_for_node` first (a task that waits in the queue), then :mod:`.run_script` (a script that goes on).
"""
