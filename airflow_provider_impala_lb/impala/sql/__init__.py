"""Texts of SQL; no input or output.

Read :mod:`.lexer` first, then :mod:`.splitter`, :mod:`.statement`, :mod:`.effects`. May import: ``errors``.
"""
