"""Texts of SQL: what a script is cut into, what each statement is and changes, and what is put into it. No I/O.

Knows the rules of Impala's own lexer and grammar, and what impala-shell does before it sends; nothing of sessions or
nodes. May import `errors` and `core.text`.

Read :mod:`.lexer` first (words and signs, strings and comments passed over), then :mod:`.splitter` with
:mod:`.shell_compat` (a script into statements), :mod:`.effects` (what a statement changes and sets),
:mod:`.classification` (what a statement is: the one place that others ask), :mod:`.parameters` (values into a
statement), :mod:`.label` (the comment by which a statement is found on a coordinator's page).
"""
