"""`python -m fpd`: the command line, for torchrun and the like."""

from .cli import main

main()
