"""A simulated cluster whose scripts are placed by the real code of ``airflow_provider_impala_lb.core``."""
