"""A coordinator's web pages, and its host's exporter, over HTTP.

Knows the pages' form and where a version differs; what is done about it is decided elsewhere. May import ``core``,
and how a label is read (``impala/sql``).

Read ``http_fetch`` (pages of several servers, all over at one moment), then ``page_address`` (where they are),
``debug_pages`` (what a coordinator runs and ran last), ``node_exporter`` (the load of a host), ``load_probe`` (both
loads as one reading) and ``node_finder`` (which coordinators there are).
"""
