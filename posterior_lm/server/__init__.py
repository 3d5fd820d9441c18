"""`plm serve`: models of this machine and programs over them, by HTTP."""
