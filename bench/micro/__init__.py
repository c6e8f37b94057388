"""The cost of small pieces on the hot path: `python -m pytest bench/micro`. Not part of the tests.

`--benchmark-save NAME` saves a run, `--benchmark-compare` compares a later one with it.
"""
