"""The command line `eolgul`: one module per group of commands."""

from eolgul.cli.main import main

__all__ = ["main"]
