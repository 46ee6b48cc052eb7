"""What all workers of a cluster share, and how it is encoded. Soft: lost, it heals by itself.

Imports `errors`. Read in this order:

* `load_report`: what one node reported;
* `record_log`: many keyed records as lines of bytes, decoded one by one;
* `model`: the records: node, lease, ticket, session key, leftover session, and the head;
* `state`: `State`, the head and the records behind it; `encode` and `decode`;
* `loading`: what a store found: a state, nothing, damage, or a newer version's.
"""
