"""What a query asks of its tables, as the index rules need it."""
