"""The world of `tiny`, its tokenizer, its training and the report on it."""
