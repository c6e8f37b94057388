"""A good client and adversaries against a real proxy: what the good client notices, and what is left afterwards.

`./scripts/soak` runs it. A run fails when the good client meets an error, waits too long, or memory does not return.
"""
