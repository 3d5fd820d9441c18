"""Scope, type and structure checks: everything wrong with a module in one run, and what is known of it."""
