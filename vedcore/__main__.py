"""``python -m vedcore``."""

from __future__ import annotations

from vedcore.cli import main

main()
