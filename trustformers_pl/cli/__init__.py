"""The command `trustformers-pl`."""

from trustformers_pl.cli.main import main

__all__ = ["main"]
