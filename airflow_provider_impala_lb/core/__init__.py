"""The balancer: who may take work, how one is chosen, what a lease is. No Airflow, no Impala, no I/O but a Store's."""
