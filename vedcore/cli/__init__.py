"""The command line: ``vedcore COMMAND``. Data goes to stdout, progress and errors go to stderr.

Exit codes: 0 all went well, 1 some inputs failed, 2 the call is wrong, 3 a setting is wrong, 4 something that has to
be installed is missing, 130 interrupted.
"""

from __future__ import annotations

from vedcore.cli.app import main

__all__ = ["main"]
