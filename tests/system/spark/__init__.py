"""Scripts, faults and Airflow on Spark's Thrift Server: a HiveServer2 that nobody here wrote.

The practice cluster shares its authors, and so their mistakes, with the balancer; this server does not. Needs Java and
pyspark (``servers``), without which the tests are skipped.
"""
