"""A whole script: its statements in order, in one session, on a node that takes it.

Knows what is done of a script and in which process, where it goes on, and what an earlier attempt may have left.
May import the other rooms of impala, and core; not the balancer, and nothing of Airflow.

Read first what is said of a run: options.py (what its caller chose), plan.py (what is sent), upstream.py (what another
script left), record.py (what has become of it), output.py (rows as a file). Then what is done, from one step to the
whole: metadata_sync.py (another node must know what was written), handover_message.py and handover.py (from process to
process), execution.py (one node), run.py (all nodes).
"""
