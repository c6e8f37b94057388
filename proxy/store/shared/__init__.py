"""The engine for storage that several processes share: `backend` says what a storage does, `engine` does the rest."""
