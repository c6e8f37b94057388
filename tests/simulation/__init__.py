"""A deterministic simulation of a fleet: whole `App`s on a storage that fails, in virtual time."""
