"""`python -m eolgul`."""

from eolgul.cli import main

main()
