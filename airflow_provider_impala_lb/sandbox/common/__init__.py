"""What all parts of the practice cluster share: its catalog, and the files in the cluster's directory.

It imports nothing of the package. To be read in this order: `catalog.py` (the databases and tables, as the catalog
service has them), `metadata_lag.py` (what ONE coordinator shows of them, and when), `confinement.py` (which files SQL
may touch). Then, as needed: `flags.py` and `query_options.py` (Impala's), `errors.py` (Impala's texts),
`node_settings.py` and `web_access.py` (what a coordinator's process is started with), `registry.py` (which
coordinators there are), `activity_log.py` (what they did), `simulated_load.py` (the load they pretend to have),
`private_files.py`.
"""
