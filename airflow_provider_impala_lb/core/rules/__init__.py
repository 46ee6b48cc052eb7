"""One transaction's decision. Each rule is a pure function of (state, now): no I/O, no clock, no thread.

Imports `errors`, `core.config` and `core.state`. Read in this order:

* `discovery`: nodes that are found, not listed;
* `supersession`: a later attempt at the same work fences the earlier ones; `expiry`: what is past its time;
* `ejection`: nodes that fail; `headroom`: nodes that report load, and their levels;
* `admission`: who may be picked, after those two;
* `queue`: who waits, and who has capacity left;
* `policy`: which of the candidates; `placement`: all of it, in order: `place` is the decision;
* `retention`: what is kept of what has no time of its own, and how much of anything;
* `clock_agreement`: which host's clock may end what another host dated.
"""
