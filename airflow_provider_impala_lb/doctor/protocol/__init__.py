"""``impala-lb doctor --protocol DATABASE``: what the script protocol rests on, tried on the user's own cluster.

What of docs/protocol.md holds on a cluster depends on its version, its flags, its web pages and who may use them. Each
trial says what it has proved, what not, and what was not tried and why; nothing of it touches more than own sessions
and own tables of random names in a scratch database.

Read `run` first (all trials, in order, each in its time), then `node` (one coordinator under trial) and `proofs` (what
was seen, and what it means for a killed worker); then the trials: `pages`, `errors`, `sessions`, `limits`,
`statements`.

Above impala and balancer; imported by cli.
"""
