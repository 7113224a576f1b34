"""The store: a PostgreSQL database for what must outlive every process, such as jobs."""
