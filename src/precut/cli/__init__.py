"""The command line, ``precut``. One file a command; torch is loaded by the command that needs it, not by the help."""

from precut.cli._main import main as main

__all__ = ["main"]
