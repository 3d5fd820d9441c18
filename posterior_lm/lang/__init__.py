"""The language: from program text to a checked module."""
