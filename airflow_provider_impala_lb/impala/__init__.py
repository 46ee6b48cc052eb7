"""Impala: its SQL, its web pages, its sessions, and scripts that run in them.

Knows neither Airflow nor the balancer's facade. May import ``core``. Floors, bottom first: ``sql`` (texts, no I/O)
and ``web`` (pages over HTTP), then ``statement`` (what may be done about one that was sent) and ``journal`` (what is
kept of a script's run), then ``hs2`` (one session on one coordinator), then ``previous`` (what earlier attempts left),
then ``script`` (a whole script on picked nodes), then ``dbapi`` (a DB-API connection to a picked node).
"""
