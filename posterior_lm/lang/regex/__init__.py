"""Regular expressions that can be run in linear time: Python's `re`, without what is not regular."""
