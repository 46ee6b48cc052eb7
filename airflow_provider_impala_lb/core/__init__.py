"""The balancer: who may take work, how one is chosen, what a lease is. Pure Python.

It knows neither Airflow, nor Impala, nor where the state lies: no I/O but that of the `ports` that others implement
(and /proc, for whether a process lives). It imports `errors`, and nothing else of this package.

Read in this order, each may import those before it:

* `text`, `timing`, `stop_request`, `forks`: small tools;
* `config`: what the user writes; `state`: what all workers share;
* `process_identity`: whether a lease's process lives; `ports`: what others implement;
* `rules`: one transaction's decision, pure functions of (state, now);
* `cluster`: the objects that run those rules, for one process.
"""
