"""An end to waiting for the hub, and the client's failures in our words."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointUnsafeError, HubError, VedcoreError

__all__ = ["Patience", "cache_error"]

T = TypeVar("T")

TRIES = 5
"""Requests of one address at most, whatever fails."""
READ_SECONDS = 10.0
"""Silence of a server that is a failure; the client's own timeouts hold where they are shorter."""
TOTAL_SECONDS = 60.0
"""From the first request of an address to the last one; where a file's download goes on, from there."""
PAUSE_SECONDS = 1.0
"""Before the second try; doubled before each further one."""

_LOCK = threading.Lock()
_XET: list[bool] = []
"""The client's setting, once for each that watches."""
_AGAIN = {408, 429, 500, 502, 503, 504}
_NETWORK = "check the network; with HF_HUB_OFFLINE=1 the cached copy is used"


class Patience:
    """An end to waiting: it watches the client's requests, ends its tries, and puts its failures in our words."""

    def __init__(self, repo: str, revision: str, *, commit: str | None = None, every_thread: bool = False) -> None:
        self.repo, self.revision, self.commit = repo, revision, commit
        self.etag: str | None = None
        """Of the file that was asked for."""
        self._thread = None if every_thread else threading.get_ident()
        self._tries: Counter[tuple[str, str]] = Counter()
        self._end = time.monotonic() + TOTAL_SECONDS
        self._last: HubError | None = None

    def attempt(self, call: Callable[[], T]) -> T:
        """``call``, again where its failure may pass."""
        for tries in range(1, TRIES + 1):
            try:
                return self.once(call)
            except PassingError as error:
                failure = HubError(error.message, path=error.path, hint=error.hint)
                pause = max(PAUSE_SECONDS * 2 ** (tries - 1), error.wait)
            if tries == TRIES or time.monotonic() + pause > self._end:
                break
            time.sleep(pause)
        raise failure

    def once(self, call: Callable[[], T]) -> T:
        """``call``, with its requests watched; its failure is raised from here, without the client's frames."""
        failure: VedcoreError | None
        with self._watching():
            try:
                return call()
            except VedcoreError as error:
                failure = error
            except _GaveUpError as error:
                what, hint = (self._last.message, self._last.hint) if self._last else (str(error), _NETWORK)
                failure = HubError(what, path=self.repo, hint=hint)
            except Exception as error:
                failure = self._failure(error)
        failure.__context__ = failure.__cause__ = failure.__traceback__ = None
        raise failure

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        from huggingface_hub import constants, get_session

        client = get_session()
        with _LOCK:
            before = client.event_hooks
            client.event_hooks = {
                "request": [*before["request"], self._on_request],
                "response": [*before["response"], self._on_response],
            }
            _XET.append(_XET[0] if _XET else constants.HF_HUB_DISABLE_XET)
            constants.HF_HUB_DISABLE_XET = True  # its transfers try for ever, unwatched
        try:
            yield
        finally:
            with _LOCK:
                hooks = client.event_hooks
                client.event_hooks = {
                    "request": [hook for hook in hooks["request"] if hook != self._on_request],
                    "response": [hook for hook in hooks["response"] if hook != self._on_response],
                }
                xet = _XET.pop()
                if not _XET:
                    constants.HF_HUB_DISABLE_XET = xet

    def _on_request(self, request: Any) -> None:
        if self._thread not in (None, threading.get_ident()):
            return
        address = (request.method, str(request.url).partition("?")[0])
        tries = self._tries[address]
        if not tries or "Range" in request.headers:  # the rest of a file, of which some came
            self._end = time.monotonic() + TOTAL_SECONDS
        left = self._end - time.monotonic()
        if tries == TRIES or (left <= 0 and tries):
            raise _GaveUpError(f"no whole answer in {tries} tries")
        self._tries[address] += 1
        silence = READ_SECONDS if request.method in ("GET", "HEAD") else TOTAL_SECONDS  # the hub works on a commit
        longest = min(silence, max(left, 1.0))
        timeouts = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {
            kind: min(timeouts.get(kind) or longest, longest) for kind in ("connect", "read", "write", "pool")
        }

    def _on_response(self, response: Any) -> None:
        if self._thread not in (None, threading.get_ident()):
            return
        if response.status_code in _AGAIN:
            self._last = self._answered(response)
            wait = _retry_after(response)
            if wait and time.monotonic() + wait > self._end:
                raise self._last
        if response.request.method == "HEAD" and response.status_code < 400 and self.commit:
            commit = response.headers.get("X-Repo-Commit")
            etag = response.headers.get("X-Linked-Etag") or response.headers.get("ETag")
            if commit not in (None, self.commit):
                raise HubError(f"it answers for commit {short(commit)}", path=self.repo, hint="run it again")
            if etag is not None:
                self.etag = etag.removeprefix("W/").strip('"')
                if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", self.etag):
                    raise CheckpointUnsafeError(
                        f"{short(self.etag)} is no hash of a file", path=self.repo, hint="check HF_ENDPOINT"
                    )

    def _answered(self, response: Any) -> HubError:
        """What an HTTP status means, and what to do."""
        status, code = response.status_code, response.headers.get("X-Error-Code")
        wait = _retry_after(response)
        match status, code:
            case 401 | 403, "GatedRepo":
                what, hint = "a gated repo", f"ask for access on its page, then set HF_TOKEN ({status})"
            case 404, "RevisionNotFound":
                what, hint = f"no revision {self.revision!r}", "set revision= to a branch, a tag or a commit of it"
            case 404, "EntryNotFound":
                name = str(response.url).partition("?")[0].rpartition("/")[2]
                what, hint = (
                    f"{short(name)} is not there, though listed (404)",
                    "set another revision=, or run it again",
                )
            case 401, _:
                what, hint = "no such repo, or no access to it (401)", "check the name; set HF_TOKEN for a private repo"
            case 403, _:
                what, hint = "access denied (403)", "set HF_TOKEN to a token with the right to do it"
            case 404, _:
                what, hint = "no such repo (404)", "check the name; set HF_TOKEN for a private repo"
            case 429, _:
                after = f" in {wait:.0f} s" if wait else " later"
                what, hint = "too many requests (429)", f"try again{after}; with HF_TOKEN set the limit is higher"
            case _:
                what, hint = f"the hub answered {status}", "try again later; HF_HUB_OFFLINE=1 uses the cached copy"
        kind = PassingError if status in _AGAIN else HubError
        failure = kind(what, path=self.repo, hint=hint)
        if isinstance(failure, PassingError):
            failure.wait = wait or 0.0
        return failure

    def _failure(self, error: Exception) -> HubError:
        """A foreign error in our words; none of its text is kept, for it may hold what a server sent."""
        chain: list[BaseException] = [error]
        while chain[-1].__cause__ is not None and len(chain) < 5:
            chain.append(chain[-1].__cause__)
        for link in chain:
            if hasattr(link, "response"):
                return self._answered(link.response)
            if isinstance(link, VedcoreError):
                return HubError(link.message, path=self.repo, hint=link.hint)
        names = {kind.__name__ for link in chain for kind in type(link).__mro__}
        if "TimeoutException" in names:
            return PassingError(f"no answer in {READ_SECONDS:.0f} s", path=self.repo, hint=_NETWORK)
        if names & {"TransportError", "ConnectionError"}:
            return PassingError("no connection to the hub, or it broke off", path=self.repo, hint=_NETWORK)
        if isinstance(error, OSError) and error.errno:
            return cache_error(error, self.repo)
        if "Consistency check failed" in str(error):
            return PassingError("a file came short", path=self.repo, hint=_NETWORK)
        what = f"the client failed with {type(error).__name__}"
        return HubError(what, path=self.repo, hint="check HF_ENDPOINT, and that it is a hub")


class PassingError(HubError):
    """A failure that may pass."""

    wait = 0.0
    """Seconds that the hub asks for."""


class _GaveUpError(Exception):
    """Raised in a request to end the client's own tries."""


def _retry_after(response: Any) -> float | None:
    """Seconds that the hub asks to wait."""
    text = response.headers.get("Retry-After", "")
    return float(text) if re.fullmatch(r"\d{1,9}", text) else None


def cache_error(error: OSError, repo: str) -> HubError:
    """What keeps the cache from being written."""
    from huggingface_hub import constants

    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "make room, or set HF_HOME to another folder" if full else "set HF_HOME to a folder that you may write to"
    return HubError(
        f"{repo} cannot be cached: {os.strerror(error.errno or 0).lower()}", path=constants.HF_HUB_CACHE, hint=hint
    )
