"""Sockets without HTTP: a connection with flow control, listening, dialling, TLS contexts."""
