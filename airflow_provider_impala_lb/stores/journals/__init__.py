"""Journals of scripts in a directory beside the lock file. What a journal is: core/ports.py, `JournalStore`.

A lost or older journal would run an INSERT twice, so here all is synced, and what cannot be read is an error.

Read in this order: document.py (what is kept of one document, also by stores/redis/), file.py (`FileJournals`),
directory.py (the directory, and the lock on it), slots.py (one file in place, and which of its versions was committed),
versions.py (one file in attributes, imported only where a file system needs that).

Imports core (ports), stores/file and errors.
"""
