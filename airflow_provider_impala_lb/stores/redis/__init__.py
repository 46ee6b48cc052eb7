"""The state, journals and a mirror of session records in a Redis server, one behind sentinels, or a Redis Cluster.

Read in this order: client.py (connecting, asking again, and what failures mean), store.py (the state: compare and set),
journals.py (the same, and never an older document for the newest), replication.py (which server answers, and whether it
may be behind), mirror.py (copies behind the work's back).

redis-py is imported only in functions: without a Redis it need not be installed. Imports core (ports, state, config,
timing), stores/journals/document.py and errors.
"""
