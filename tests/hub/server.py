"""A hub on the loopback: it answers huggingface_hub from folders on disk, with faults to order."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".model")
"""Endings of files in large file storage."""


@dataclass
class Fault:
    """An answer to the requests that match, other than the right one; the first fault that matches counts."""

    kind: str
    """``status``, ``drop`` and ``short`` (half of the body), ``ignore_range``, ``hang``, ``hang_half``, ``wrong``
    (bytes), ``slow``, or ``etag`` (of ``value``)."""
    match: str = ""
    """A part of the path."""
    method: str = ""
    times: int = 10**9
    """The number of requests that it is given to."""
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    value: str = ""


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted((n, hashlib.sha1(d).hexdigest()) for n, d in files.items())).encode()).hexdigest()


class Hub:
    """Serves ``folder/org/name/*`` as the branch ``main`` of ``org/name``, as of when it is asked.

    Attributes:
        url: for ``HF_ENDPOINT``.
        faults: a list of `Fault`, changed at will.
        requests: ``(method, path)`` of all that was asked.
        answered: ``(method, path)`` of requests that are over: answered whole, or dropped by the hub at last.
        tokens: the values of ``Authorization``.
        commits: files by repo and commit, kept for ever.
        listed: extra names in listings, by repo.
        on_request: called with method and path before each answer.
        patience: seconds until a request that hangs is dropped.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.answered: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.listed: dict[str, list[str]] = {}
        self.storage: dict[str, bytes] = {}
        self.pushed: list[dict[str, Any]] = []
        self.on_request: Callable[[str, str], None] = lambda method, path: None
        self.patience = 30.0
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def head(self, repo: str) -> str | None:
        """The commit of the branch ``main`` now."""
        folder = self.folder / repo
        if not folder.is_dir():
            return None
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        commit = commit_of(files)
        self.commits[repo, commit] = files
        return commit

    def asked(self, part: str, method: str = "") -> int:
        """The number of requests with ``part`` in their path."""
        return sum(part in path and method in ("", m) for m, path in self.requests)

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.match in path and fault.method in ("", method) and fault.times > 0:
                fault.times -= 1
                return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        self.hub.on_request(self.command, path)
        if "Authorization" in self.headers:
            self.hub.tokens.add(self.headers["Authorization"])
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.hub.fault(self.command, path)
        if fault and fault.kind == "hang":
            if not self.hub.closing.wait(self.hub.patience):
                self.hub.answered.append((self.command, path))
            self.close_connection = True
        elif fault and fault.kind == "status":
            self._send(fault.status, b"{}", fault.headers)
        else:
            self._route(path, body, fault)

    def _route(self, path: str, body: bytes, fault: Fault | None) -> None:
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
            (self.hub.folder / repo).mkdir(parents=True, exist_ok=True)
            self._json({"url": f"{self.hub.url}/{repo}", "name": repo})
        elif path in ("/api/validate-yaml", "/api/whoami-v2"):
            self._json({"errors": [], "warnings": [], "name": "me", "type": "user", "orgs": []})
        elif path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif parts[0] == "storage":
            self.hub.storage[parts[1]] = body
            self._send(200, b"")
        elif parts[:2] == ["api", "models"] and len(parts) > 4 and parts[4] == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif parts[:2] == ["api", "models"] and len(parts) > 4 and parts[4] == "commit":
            self._commit("/".join(parts[2:4]), body)
        elif parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._info("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), fault)
        else:
            self._error(404, "RepoNotFound")

    def _files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and the files, or None after an error was sent."""
        head = self.hub.head(repo)
        if head is None:
            self._error(404, "RepoNotFound")
            return None
        commit = head if revision == "main" else revision
        if (repo, commit) not in self.hub.commits:
            self._error(404, "RevisionNotFound")
            return None
        return commit, self.hub.commits[repo, commit]

    def _info(self, repo: str, rest: list[str]) -> None:
        found = self._files(repo, "/".join(rest[1:]) if rest else "main")
        if found:
            commit, files = found
            names = [*files, *self.hub.listed.get(repo, [])]
            siblings = [{"rfilename": name} for name in names]
            self._json({"_id": "1", "id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "private": False})

    def _resolve(self, repo: str, revision: str, name: str, fault: Fault | None) -> None:
        found = self._files(repo, revision)
        if not found:
            return
        commit, files = found
        if name not in files:
            self._error(404, "EntryNotFound", {"X-Repo-Commit": commit})
            return
        data = files[name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(data)}"', "Accept-Ranges": "bytes"}
        if name.endswith(LARGE):
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(data).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(data))
        if fault and fault.kind == "etag":
            headers.pop("X-Linked-Etag", None)
            headers["ETag"] = fault.value
        if fault and fault.kind == "wrong":
            data = bytes(byte ^ 1 for byte in data)
        status, asked = 200, self.headers.get("Range")
        if asked and not (fault and "ignore_range" in (fault.kind, fault.value)):
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            status, data = 206, data[start:]
        self._send(status, data, headers, fault)

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/storage/{wanted['oid']}"}}}
            for wanted in asked["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines[1:]:
            value = line["value"]
            large = line["key"] == "lfsFile"
            data = self.hub.storage[value["oid"]] if large else base64.b64decode(value["content"])
            path = self.hub.folder / repo / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.hub.pushed.append({"repo": repo, "summary": lines[0]["value"]["summary"], "lines": lines})
        commit = self.hub.head(repo)
        answer = {"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit}
        if parse_qs(urlsplit(self.path).query).get("create_pr"):
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo}/discussions/1"
        self._json(answer)

    def _json(self, data: Any) -> None:
        self._send(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def _send(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, fault: Fault | None = None
    ) -> None:
        kind = fault.kind if fault else ""
        sent = data[: len(data) // 2] if kind in ("drop", "short", "hang_half") else data
        try:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(sent if kind == "short" else data)))
            self.end_headers()
            if self.command != "HEAD":
                for start in range(0, len(sent), 1 << 16):
                    self.wfile.write(sent[start : start + (1 << 16)])
                    if kind == "slow":
                        self.hub.closing.wait(0.1)
                self.wfile.flush()
                if kind == "hang_half":
                    self.hub.closing.wait(self.hub.patience)
                if kind in ("drop", "hang_half"):
                    self.close_connection = True
                    self.connection.close()
            self.hub.answered.append((self.command, unquote(urlsplit(self.path).path)))
        except OSError:  # the client has gone
            self.close_connection = True


__all__ = ["Fault", "Hub", "commit_of", "git_sha1"]
