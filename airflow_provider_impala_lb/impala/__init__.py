"""Impala itself: its scripts, its sessions, what its coordinators say of themselves."""
