"""A hub on this machine: as much of huggingface.co's interface as `huggingface_hub` asks for when files are shared."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = ".h5"  # these travel as large files, whose content goes another way than the commit


class FakeHub:
    """One dataset repository, once it is created; `commits[-1]` is its newest state, path -> content."""

    def __init__(self) -> None:
        self.url = ""
        self.repo: str | None = None
        self.private: bool | None = None
        self.commits: list[dict[str, bytes]] = []
        self.large: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.fail_uploads_after: int | None = None
        self.forbidden = False
        self.ignored = ""  # how names end that the repository's .gitignore has

    def oid(self, number: int) -> str:
        """The hash of a commit."""
        return f"{number:040x}"

    def number(self, revision: str) -> int:
        """Of a commit; all branches are one."""
        return len(self.commits) - 1 if revision in ("main", "refs/pr/1") else int(revision, 16)

    def state(self, revision: str) -> dict[str, bytes] | None:
        """The files of a branch or commit."""
        number = self.number(revision)
        return self.commits[number] if 0 <= number < len(self.commits) else None

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status, and JSON or bytes."""
        if self.forbidden and method != "GET":
            return 403, {"error": "You don't have the required permissions"}
        if path == "/api/repos/create":
            if self.repo is not None:
                return 409, {"error": "You already created this dataset repo"}
            asked = json.loads(body)
            self.repo, self.private = f"{asked['organization']}/{asked['name']}", asked.get("visibility") == "private"
            self.commits = [{".gitattributes": b"*.h5 filter=lfs"}]
            return 200, {"url": f"{self.url}/datasets/{self.repo}", "name": self.repo}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if match := re.fullmatch(r"/upload/(\w+)", path):
            return self._store_large(match[1], body)
        if self.repo is None or self.repo not in path:
            return 404, {"error": "Repository not found"}
        return self._answer_repo(path.replace(f"/datasets/{self.repo}", "").removeprefix("/api"), body)

    def _answer_repo(self, path: str, body: bytes) -> tuple[int, Any]:
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._upload(one) for one in json.loads(body)["objects"]]}
        kind, _, rest = path.lstrip("/").partition("/")
        if kind in ("", "revision"):
            revision = rest or "main"
            if self.state(revision) is None:
                return 404, {"error": "Revision not found"}
            number = self.number(revision)
            return 200, {"_id": "1", "id": self.repo, "sha": self.oid(number), "siblings": [], "tags": []}
        if kind == "preupload":
            files = json.loads(body)["files"]
            return 200, {"files": [self._mode(file["path"]) for file in files]}
        if kind == "commit":
            return self._commit([json.loads(line) for line in body.splitlines()])
        if kind == "tree":
            revision, folder = _split(rest)
            return 200, self._tree(revision, folder)
        if kind == "paths-info":
            return 200, [entry for entry in self._tree(rest, "") if entry["path"] in _paths(body)]
        if kind == "resolve":
            revision, name = _split(rest)
            return 200, (self.state(revision) or {})[name]
        return 501, {"error": path}

    def _mode(self, path: str) -> dict[str, Any]:
        ignore = bool(self.ignored) and path.endswith(self.ignored)
        mode = "lfs" if path.endswith(LARGE) else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": ignore, "oid": None}

    def _tree(self, revision: str, folder: str) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in (self.state(revision) or {}).items()
            if not folder or name.startswith(f"{folder}/")
        ]

    def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in self.large:  # else it is here already, and no upload is asked for
            answer["actions"] = {"upload": {"href": f"{self.url}/upload/{wanted['oid']}"}}
        return answer

    def _store_large(self, oid: str, body: bytes) -> tuple[int, Any]:
        if self.fail_uploads_after is not None and len(self.large) >= self.fail_uploads_after:
            return 400, {"error": "no more"}
        assert hashlib.sha256(body).hexdigest() == oid
        self.large[oid] = body
        return 200, {}

    def _commit(self, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        if lines[0]["value"].get("parentCommit") != self.oid(len(self.commits) - 1):
            return 412, {"error": "A commit has happened since. Please refresh and try again."}
        state = dict(self.commits[-1])
        for line in lines[1:]:
            value = line["value"]
            state[value["path"]] = (
                self.large[value["oid"]] if line["key"] == "lfsFile" else base64.b64decode(value["content"])
            )
        self.commits.append(state)
        oid = self.oid(len(self.commits) - 1)
        return 200, {"commitUrl": f"{self.url}/datasets/{self.repo}/commit/{oid}", "commitOid": oid, "success": True}


def _split(path: str) -> tuple[str, str]:
    """Revision and path in it."""
    found = re.fullmatch(r"(refs/pr/\d+|[^/]+)(?:/(.*))?", path)
    assert found
    return found[1], found[2] or ""


def _paths(body: bytes) -> list[str]:
    text = body.decode()
    if text.startswith("{"):
        found: list[str] = json.loads(text)["paths"]
        return found
    return [unquote(part.partition("=")[2]) for part in text.split("&") if part.startswith("paths=")]


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """One that listens until the end of the context."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            hub.calls.append(f"{self.command} {path}")
            status, found = hub.answer("GET" if self.command == "HEAD" else self.command, path, body)
            data = found if isinstance(found, bytes) else json.dumps(found).encode()
            if start_end := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                end = int(start_end[2]) + 1 if start_end[2] else len(data)
                data, status = data[int(start_end[1]) : end], 206
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if status == 404:
                code = "RepoNotFound" if "Repository" in str(found) else "RevisionNotFound"
                self.send_header("X-Error-Code", code)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_HEAD = _handle  # noqa: N815 -- the names are the library's

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
