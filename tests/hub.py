"""A Hugging Face Hub on localhost: what the real client needs to download and to push.

Large files are redirected to a second port, as the Hub redirects to a file store on another host.
Plain files are under /files/ of that store, for sources that are downloaded over https. Every
request is recorded, and faults can be injected per file. By hand: `python -m tests.hub FOLDER`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

INLINE_SUFFIXES = (".json", ".md", ".txt", ".gitattributes")


class Request(NamedTuple):
    """One request as the server saw it; `authorization` and `range` are "" where not sent."""

    method: str
    path: str
    range: str
    authorization: str


@dataclass
class Fault:
    """A fault injected `times` times: an HTTP status, other bytes, or a cut after n bytes."""

    status: int = 0
    body: bytes | None = None
    cut_after: int | None = None
    times: int = 1_000_000


@dataclass
class Repo:
    """A repository with one commit: its files, and who may read them."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    @property
    def commit(self) -> str:
        """A commit hash that changes with the content."""
        digest = hashlib.sha1()
        for name in sorted(self.files):
            digest.update(name.encode() + self.files[name])
        return digest.hexdigest()


class Hub:
    """The server, its repositories (`org/name`), plain files, tokens and faults (by file name)."""

    def __init__(self, port: int = 0) -> None:
        self.repos: dict[str, Repo] = {}
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.readers = {"hf_reader", "hf_writer"}
        self.writers, self.expired = {"hf_writer"}, {"hf_expired"}
        handlers = [type(kind.__name__, (kind,), {"hub": self}) for kind in (HubPages, FileStore)]
        self.servers = [ThreadingHTTPServer(("127.0.0.1", port), handlers[0])]
        self.servers += [ThreadingHTTPServer(("127.0.0.1", 0), handlers[1])]
        self.url, self.store_url = (f"http://127.0.0.1:{s.server_address[1]}" for s in self.servers)

    def start(self) -> None:
        """Serve in the background until `stop` is called."""
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Close both ports."""
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def add_repo(self, name: str, files: dict[str, bytes], **access: bool) -> Repo:
        """Add a repository, which may be `private=True` or `gated=True`."""
        self.repos[name] = Repo(dict(files), **access)
        return self.repos[name]

    def add_file(self, name: str, content: bytes) -> str:
        """Add a plain file; returns its URL."""
        self.files[name] = content
        return f"{self.store_url}/files/{name}"

    def asked(self, method: str, part: str) -> list[Request]:
        """The recorded requests of a method whose path contains `part`."""
        return [r for r in self.requests if r.method == method and part in r.path]


def point_client_at(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the Hub's client of this process use `hub` and empty caches in `home`.

    The client reads its environment only on import, so its constants are set here.
    """
    from huggingface_hub import constants

    values = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hf" / "hub"),
        "HF_TOKEN_PATH": str(home / "hf" / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "hf" / "stored_tokens"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "DOWNLOAD_CHUNK_SIZE": 1024,
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("VT_CACHE", str(home / "vt"))
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VT_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A server that ends with the block."""
    hub = Hub()
    hub.start()
    try:
        yield hub
    finally:
        hub.stop()


class Handler(BaseHTTPRequestHandler):
    """Recording, reading and responding, shared by the pages and the file store."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Print nothing; `Hub.requests` has every request."""

    def record(self) -> str:
        """Record the request; returns its path."""
        path = urlsplit(self.path).path
        header = self.headers.get
        self.hub.requests.append(
            Request(self.command, path, header("Range", ""), header("Authorization", ""))
        )
        return path

    def body(self) -> bytes:
        """The content of a request, also of a chunked one."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        """A complete response; header names are written with `_` for `-`."""
        self.send_response(status)
        for name, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, value: object, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def send_file(self, name: str, content: bytes, etag: str, **headers: str) -> None:
        """A file, or the rest of it that a Range header asks for, with its injected fault."""
        fault = self.fault(name)
        if fault.status:
            self.answer(fault.status)
            return
        content = content if fault.body is None else fault.body
        start = self.start(etag)
        if start > 0 and start >= len(content):
            self.answer(416, Content_Range=f"bytes */{len(content)}")
            return
        piece = content[start:]
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers |= {"ETag": f'"{etag}"', "Accept_Ranges": "bytes"}
        if fault.cut_after is None or self.command == "HEAD":
            self.answer(206 if start else 200, piece, **headers)
            return
        self.close_connection = True
        self.answer_cut(206 if start else 200, piece, fault.cut_after, headers)

    def answer_cut(self, status: int, piece: bytes, length: int, headers: dict[str, str]) -> None:
        """Announce the full length, send `length` bytes and disconnect."""
        self.send_response(status)
        for name, value in {"Content_Length": str(len(piece)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(piece[:length])

    def start(self, etag: str) -> int:
        """The first requested byte: 0 without a Range, or if If-Range names another version."""
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", f'"{etag}"') == f'"{etag}"'
        return int(wanted[1]) if wanted and same else 0

    def fault(self, name: str) -> Fault:
        """The fault for this request; a response without body can only have a wrong status."""
        fault = self.hub.faults.get(name, Fault(times=0))
        if fault.times <= 0:
            return Fault()
        if fault.status or self.command != "HEAD":
            fault.times -= 1
        return fault


class FileStore(Handler):
    """The second host: objects by sha256 under /objects/, plain files under /files/, uploads."""

    def do_GET(self) -> None:
        path = self.record()
        _, kind, name = path.split("/", 2)
        if kind == "objects":
            oid, _, name = name.partition("/")
            self.send_file(name, self.hub.blobs[oid], oid)
        elif name in self.hub.files:
            content = self.hub.files[name]
            self.send_file(name, content, hashlib.md5(content).hexdigest())
        else:
            self.answer(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        """An upload by its sha256, which is checked; the fault `upload` applies to all."""
        oid = self.record().rpartition("/")[2]
        content = self.body()
        if status := self.fault("upload").status:
            self.answer(status)
        elif hashlib.sha256(content).hexdigest() != oid:
            self.answer(400)
        else:
            self.hub.blobs[oid] = content
            self.answer(200)


class HubPages(Handler):
    """The Hub itself: files of repositories and the API for commits."""

    def do_GET(self) -> None:
        path = self.record()
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(match[1], unquote(match[2]), unquote(match[3]))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self.repo_info(match[1], unquote(match[2] or "main"))
        elif path == "/api/whoami-v2":
            status = 200 if self.token() in self.hub.readers else 401
            self.answer_json({"name": "someone", "type": "user", "orgs": []}, status)
        else:
            self.answer(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        path, body = self.record(), self.body()
        if path == "/api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
        elif self.token() not in self.hub.writers:
            self.refuse_writing()
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/.+", path):
            self.preupload(json.loads(body))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self.batch(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/.+", path):
            self.commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer(404)

    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def refuse_writing(self) -> None:
        status = 403 if self.token() in self.hub.readers else 401
        self.answer(status, X_Error_Message="You don't have the rights to write here.")

    def readable(self, name: str, listed: bool = False) -> Repo | None:
        """The repository, or None after the response of a Hub that denies access.

        Everybody may list the files of a gated repository (`listed`). A token that has expired
        opens nothing, not even what is public.
        """
        repo, known = self.hub.repos.get(name), self.token() in self.hub.readers
        if self.token() in self.hub.expired:
            self.answer(401, X_Error_Message="Invalid credentials in Authorization header")
            return None
        if repo is None or (repo.private and not known):
            status = 404 if known else 401
            self.answer(status, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return None
        if repo.gated and not known and not listed:
            self.answer(401, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
            return None
        return repo

    def resolve(self, name: str, revision: str, file: str) -> None:
        repo = self.readable(name)
        if repo is None:
            return
        if revision not in ("main", repo.commit):
            self.answer(404, X_Error_Code="RevisionNotFound")
        elif file not in repo.files:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=repo.commit)
        elif file.endswith(INLINE_SUFFIXES):
            content = repo.files[file]
            etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self.send_file(file, content, etag, X_Repo_Commit=repo.commit)
        else:
            self.redirect(repo, file)

    def redirect(self, repo: Repo, file: str) -> None:
        """Redirect to the file store, as for every large file."""
        if status := self.fault(file).status:
            self.answer(status)
            return
        content = repo.files[file]
        oid = hashlib.sha256(content).hexdigest()
        self.hub.blobs[oid] = content
        self.answer(
            302,
            Location=f"{self.hub.store_url}/objects/{oid}/{file}",
            X_Repo_Commit=repo.commit,
            X_Linked_ETag=f'"{oid}"',
            X_Linked_Size=str(len(content)),
        )

    def repo_info(self, name: str, revision: str) -> None:
        repo = self.readable(name, listed=True)
        if repo is not None and revision not in ("main", repo.commit):
            self.answer(404, X_Error_Code="RevisionNotFound")
        elif repo is not None:
            siblings = [{"rfilename": file} for file in repo.files]
            self.answer_json(
                {"id": name, "sha": repo.commit, "private": repo.private, "siblings": siblings}
            )

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        is_new = name not in self.hub.repos
        if is_new:
            private = wanted.get("private", wanted.get("visibility") == "private")
            self.hub.add_repo(name, {}, private=private)
        self.answer_json({"url": f"{self.hub.url}/{name}"}, 200 if is_new else 409)

    def preupload(self, wanted: dict[str, Any]) -> None:
        def mode(path: str) -> str:
            return "regular" if path.endswith(INLINE_SUFFIXES) else "lfs"

        paths = [file["path"] for file in wanted["files"]]
        self.answer_json(
            {"files": [{"path": p, "uploadMode": mode(p), "shouldIgnore": False} for p in paths]}
        )

    def batch(self, wanted: dict[str, Any]) -> None:
        """Where to upload each object (git-lfs batch API, transfer `basic`)."""

        def entry(thing: dict[str, Any]) -> dict[str, Any]:
            href = f"{self.hub.store_url}/upload/{thing['oid']}"
            actions = {} if thing["oid"] in self.hub.blobs else {"upload": {"href": href}}
            return {**thing, "actions": actions} if actions else thing

        objects = [entry(thing) for thing in wanted["objects"]]
        self.answer_json({"transfer": "basic", "objects": objects})

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        """One commit: files in the request, and files uploaded before."""
        repo = self.hub.repos[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.blobs[value["oid"]]
        url = f"{self.hub.url}/{name}/commit/{repo.commit}"
        self.answer_json({"commitUrl": url, "commitOid": repo.commit, "success": True})


def serve_folder(folder: Path) -> None:
    """Serve FOLDER/org/name/* as repositories and FOLDER/files/* as plain files until Ctrl-C."""
    hub = Hub()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        parts = path.relative_to(folder).parts
        if parts[0] == "files":
            print(hub.add_file("/".join(parts[1:]), path.read_bytes()))
        elif len(parts) > 2:
            repo = hub.repos.setdefault("/".join(parts[:2]), Repo())
            repo.files["/".join(parts[2:])] = path.read_bytes()
    hub.start()
    print(f"export HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1", flush=True)
    print("repositories:", *hub.repos, "(the token hf_writer may write)", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        hub.stop()


if __name__ == "__main__":
    serve_folder(Path(sys.argv[1]))
