"""`python -m fpd` is the command `fpd`, for torchrun."""

from .cli import main

main()
