"""The command line: ``vedcore COMMAND``. Data goes to stdout; progress and errors go to stderr.

Exit codes: 0 success, 1 an input or anything else failed, 2 wrong usage, 3 a wrong setting in a config, 4 a plugin or
extra is not installed, 130 interrupted.
"""

from __future__ import annotations

from vedcore.cli.app import main

__all__ = ["main"]
