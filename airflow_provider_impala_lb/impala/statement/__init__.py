"""One statement that was sent: what is known of it, and what may be done next. No I/O.

Knows what each error text of Impala means, and what proves that a statement has ended or never arrives. Knows neither
sessions nor pages: whoever asks says what was seen. May import `errors` and ``impala.sql``.

Read :mod:`.failure_rules` (the table of error texts), then :mod:`.protocol` (what is kept, what was seen, what
follows).
"""
