"""Airflow's hook on one side, the balancer and its sessions on the other."""
