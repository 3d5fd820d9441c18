"""`python -m posterior_lm` is `plm`."""

from posterior_lm.cli.main import main

main()
