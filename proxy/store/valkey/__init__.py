"""Redis and Valkey as a storage: `resp` and `connection` speak to a server, `backend` keeps streams there."""
