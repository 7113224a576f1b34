"""What rewrite rules share: what is certain of a statement, and how its pieces are put together again."""
