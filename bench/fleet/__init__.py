"""Three proxies as real processes on one storage, each behind a relay that cuts, hangs and loses: what clients see.

`./scripts/soak fleet` runs it. A run fails when an oracle finds one stream that is lost, doubled, reordered, falsely
complete, hung, called twice or contradicted.
"""
