"""What is kept of a script's run, durably, beside the balancer's state: which sessions it
has opened, and which statements have run.

Knows documents and who may write them; neither sessions nor pages. May import core and errors.

Read :mod:`.identity` (whose a run is), :mod:`.document` (what is kept), :mod:`.sealing` (so that nobody else reads it),
:mod:`.journal` (how one attempt writes it), then :mod:`.answers` (what is noted, and asked, from outside) and
:mod:`.sweeping` (what is old).
"""
