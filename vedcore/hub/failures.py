"""Failures of the hub's client and of its cache, as `HubError`."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

from vedcore.errors import HubError, VedcoreError

__all__ = ["with_hub_errors"]

T = TypeVar("T")


def with_hub_errors(
    call: Callable[[], T],
    where: str,
    revision: str = "main",
    *,
    cached: Callable[[], object] | None = None,
    cache_setting: str = "HF_HUB_CACHE",
) -> T:
    """The result of ``call``; a failure becomes a `HubError` without the client's frames and texts.

    Args:
        call: asks the hub, or writes to the cache.
        where: the repo, or a file of it, for messages.
        revision: the branch, tag or commit that is asked for.
        cached: raises a `VedcoreError` where the cache has no copy to use offline; None: a copy would not help.
        cache_setting: the variable or argument that named the cache.
    """
    try:
        return call()
    except VedcoreError:
        raise
    except Exception as error:
        offline = ""
        if cached is not None:
            with contextlib.suppress(VedcoreError):
                cached()
                offline = "; a new process with HF_HUB_OFFLINE=1 uses the cached copy"
        failure = _failure(error, where, revision, offline, cache_setting)
    raise failure  # outside of the except clause: a context would hold the request and its token


def _failure(error: Exception, where: str, revision: str, offline: str, cache_setting: str) -> HubError:
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None and len(chain) < 5:
        chain.append(chain[-1].__cause__)
    response = next((link.response for link in chain if hasattr(link, "response")), None)
    kinds = {kind.__name__ for link in chain for kind in type(link).__mro__}
    if response is not None:
        what, hint = _response_error(response, revision, offline)
    elif kinds & {"TransportError", "ConnectionError"}:
        what = "no connection to the hub, no answer in time, or a connection that broke off"
        hint = f"check the network, and try again{offline}"
    elif "Consistency check failed" in str(error):
        what, hint = "fewer bytes came than the hub announced", f"check the network, and try again{offline}"
    elif isinstance(error, OSError) and error.errno:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = f"{where} cannot be cached: {os.strerror(error.errno).lower()}"
        hint = f"{'make room, or ' * full}set {cache_setting} to {'another' if full else 'a writable'} folder"
        where = error.filename
    else:
        what, hint = f"the client failed with {type(error).__name__}", "check that HF_ENDPOINT is the address of a hub"
    return HubError(what, path=where, hint=hint)


def _response_error(response: Any, revision: str, offline: str) -> tuple[str, str]:
    """The message and the hint for a response with an error status."""
    after = response.headers.get("Retry-After", "")
    match response.status_code, response.headers.get("X-Error-Code"):
        case 401 | 403 as status, "GatedRepo":
            return "a gated repo", f"ask for access on its page, then set HF_TOKEN ({status})"
        case 404, "RevisionNotFound":
            return f"no revision {revision!r}", "name a branch, a tag or a commit of it"
        case 404, "EntryNotFound":
            return "listed, but not found (404)", "name another revision, or try again"
        case (401 | 404) as status, _:
            return f"no such repo, or no access to it ({status})", "check the name; set HF_TOKEN for a private repo"
        case 403, _:
            return "access denied (403)", "set HF_TOKEN to a token that has this right"
        case 429, _:
            when = f"in {after} s" if re.fullmatch(r"\d{1,9}", after) else "later"
            return "too many requests (429)", f"try again {when}; with HF_TOKEN set the limit is higher"
        case status, _:
            return f"the hub answered {status}", f"try again later{offline}"
