"""The engine on SQLite: one database file, a thread that writes, threads that read, streams in use kept in memory."""
