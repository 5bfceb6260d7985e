"""`python -m nbhelpers` is the same as `nbh`."""

from nbhelpers.cli import main

main()
