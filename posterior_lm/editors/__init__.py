"""What editors ask of a program while it is typed: the language server `plm lsp`, and colours for Pygments."""
