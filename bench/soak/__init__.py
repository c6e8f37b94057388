"""A good client beside adversaries, against a real proxy: what it suffers, and what is left behind afterwards.

`./scripts/soak` runs it. A run fails when the good client meets an error, waits too long, or memory does not return.
"""
