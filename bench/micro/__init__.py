"""What the small pieces on the hot path cost: `python -m pytest bench/micro`. Not part of the tests.

`--benchmark-save NAME` keeps a run, `--benchmark-compare` holds a later one against it.
"""
