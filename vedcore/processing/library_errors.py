"""Errors of the ``tokenizers`` library as vedcore's, and texts that it cannot take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from vedcore.errors import TokenizerError, VedcoreError

__all__ = ["foreign_errors", "require_unicode"]


def require_unicode(text: str) -> None:
    """Refuse a text with a lone surrogate, which the library cannot take."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"a lone surrogate {text[error.start]!r} at character {error.start}",
            hint="decode the text with errors='replace'",
        ) from None


@contextlib.contextmanager
def foreign_errors(message: str, path: object, hint: str) -> Iterator[None]:
    """Turn errors of the library into TokenizerError; its panics are not instances of Exception."""
    try:
        yield
    except (VedcoreError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise TokenizerError(f"{message}: {error}", path=path, hint=hint) from None
