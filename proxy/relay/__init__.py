"""The product: ask the upstream, pump its answer into a stream, remember how it ended.

Read `upstream`, `pump`, `transfer` and `takeover`, in this order. `record` says what is stored beside the bytes; `keys`
and `lock` implement Idempotency-Key; `membership`, `lease` and `orphans` are about other instances.
"""
