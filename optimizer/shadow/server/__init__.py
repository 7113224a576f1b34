"""The embedded PostgreSQL servers: their programs, folders, configuration and supervisor."""
