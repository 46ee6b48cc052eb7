"""What earlier attempts of some work left: sessions that may still run something, and a statement in doubt.

Knows what the journal, the balancer's state and the coordinators' pages tell of them; nothing of the script that is to
run now but its statements. May import impala/hs2, impala/journal, impala/statement, impala/web, impala/sql and core.

Read :mod:`.leftover_sessions` (each is ended, and seen ended), :mod:`.late_leftovers` (those found when the script is
at work), :mod:`.statement_in_doubt` (has it run?), then :mod:`.previous_attempts` (all, when an attempt begins).
"""
