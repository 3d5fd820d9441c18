"""What a user calls: the query and what is asked of it."""
