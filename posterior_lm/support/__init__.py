"""Token automata: what a declared type lets a language model write."""
