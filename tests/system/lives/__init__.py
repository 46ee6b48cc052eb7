"""Lives of scripts: one owner, a few statements, attempts in real processes that are killed, stopped and gone on with,
over a network and on coordinators that break at random. What each attempt said, what is in the tables, and what the
coordinators' journals show are held against each other.

Read ``story`` (what a seed decides), ``tables`` (what a script leaves when each statement ran once), ``worker`` and
``nursery`` (the processes), ``pages`` and ``stage`` (what goes wrong, and when), ``author`` (who answers a question),
``life`` (attempt after attempt), ``judge`` (what is wrong with it), then ``test_random_lives``.
"""
