"""`python -m distildet` is the command line."""

from distildet.cli import main

main()
