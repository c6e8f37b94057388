"""The product: ask the upstream, pump its answer into a stream, remember how it ended.

Read `upstream`, then `pump`, then `transfers`; `record` and `idempotency` say what is remembered beside the bytes.
"""
