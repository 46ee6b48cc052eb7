"""Airflow's operators on one side, the balancer and its sessions on the other."""
