"""What is wrong with a configuration, its lock directory, its store or its coordinators, and what to do about it.

Every check yields a `Finding`, and none raises for what it looks at. Read in this order: finding.py, run.py (all
checks, in order), coordinators.py (each node: port, web pages, exporter), lock_directory.py (file system, mount, modes,
clock), lock_trial.py (does a lock there exclude, and does who has it see the last write?), two_hosts.py (the same from
two hosts) and two_hosts_protocol.py; protocol/ (what scripts rest on, tried in a scratch database).

Above stores, impala and balancer; imported by hooks and cli.
"""
