"""The command line: one thin file per command over calls of the library."""
