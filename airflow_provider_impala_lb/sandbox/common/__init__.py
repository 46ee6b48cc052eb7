"""What all parts of the practice cluster share: its catalog, and the files in the cluster's directory.

It imports nothing of the package. To be read in this order: `catalog.py` (the databases and tables, as the catalog
service has them), `metadata_lag.py` (what ONE coordinator shows of them, and when), `confinement.py` (which files SQL
may touch), `switches.py` (how a test holds, delays or fails a statement). Then, as needed: `versions.py` (how Impala's
versions differ), `flags.py` and `query_options.py` (Impala's), `errors.py` (Impala's texts), `node_settings.py` and
`web_access.py` (what a coordinator's process is started with), `activity_log.py` (what they did), `private_files.py`.
"""
