"""A stand-in for the Hugging Face Hub that speaks what its client speaks: listings, files by commit, large ones by way of a second address,
ranges, consent, tokens, and connections that break."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from fine_tune_pipeline_tests.web import Quiet, web_server

from http.server import BaseHTTPRequestHandler  # isort: skip

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 2000
PAGE = 4
"""Files in a page of the listing: fewer than the tests' repositories have."""


@dataclass
class FakeRepository:
    """One commit. `denied` is the status that a file's request gets without consent."""

    files: dict[str, bytes]
    revision: str = COMMIT
    token: str | None = None
    denied: int | None = None


@dataclass
class FakeHub:
    """The repositories, and what was asked. Of the files in `cut`, the connection breaks half way, so many times."""

    repositories: dict[str, FakeRepository] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    altered: dict[str, bytes] = field(default_factory=dict)
    refused_tokens: set[str] = field(default_factory=set)
    status: int | None = None
    asked: list[str] = field(default_factory=list)
    sent_bytes: dict[str, int] = field(default_factory=dict)
    url: str = ""

    def holds(self, repo: str, folder: Path, **more: bytes) -> FakeRepository:
        """A repository with the files of a folder."""
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repositories[repo] = FakeRepository(files={**files, **more})
        return self.repositories[repo]

    def fetched(self) -> set[str]:
        """Names of files of which content was sent."""
        return {name for name, count in self.sent_bytes.items() if count}


@contextmanager
def fake_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that the client finds at HF_ENDPOINT, with its cache below `folder`."""
    import huggingface_hub
    from huggingface_hub import constants

    hub = FakeHub()
    with web_server(lambda *arguments: _Handler(hub, *arguments)) as url:
        hub.url = url
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub_cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no_token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub
        huggingface_hub.close_session()


class _Handler(Quiet, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: FakeHub, *arguments: object) -> None:
        self.hub = hub
        super().__init__(*arguments)  # pyright: ignore[reportArgumentType]

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.hub.status is not None:
            self.refuse(self.hub.status)
        elif token in self.hub.refused_tokens:
            self.refuse(401, message="Invalid credentials in Authorization header")
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            self.listing(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(*match.groups(), token=token)
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            repo, name = match.groups()
            self.content(name, self.hub.altered.get(name, self.hub.repositories[repo].files[name]), {})
        else:
            self.refuse(404)

    def listing(self, repo: str, revision: str) -> None:
        if (held := self.held(repo, revision)) is None:
            return
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        names = sorted(held.files)
        more = {}
        if start + PAGE < len(names):
            more = {"Link": f'<{self.hub.url}/api/models/{repo}/tree/{revision}?recursive=true&cursor={start + PAGE}>; rel="next"'}
        body = json.dumps([_entry(name, held.files[name]) for name in names[start : start + PAGE]]).encode()
        self.reply(200, {"Content-Type": "application/json", "Content-Length": str(len(body)), **more}, body)

    def resolve(self, repo: str, revision: str, name: str, *, token: str) -> None:
        held = self.held(repo, revision)
        if held is None:
            return
        if held.denied is not None and (held.token is None or token != held.token):
            self.refuse(held.denied, code="GatedRepo", message=f"Access to model {repo} is restricted.")
        elif name not in held.files:
            self.refuse(404, code="EntryNotFound")
        elif _is_large(name, held.files[name]):
            content = held.files[name]
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"'}
            # Another host to the client, which therefore stops here and leaves the token behind.
            other = self.hub.url.replace("127.0.0.1", "localhost")
            away = {"Location": f"{other}/cdn/{repo}/{name}", "ETag": '"pointer"', "Content-Length": "0"}
            self.reply(302, {**linked, **away, "X-Repo-Commit": revision}, b"")
        else:
            etag = {"ETag": f'"{_blob(held.files[name])}"', "X-Repo-Commit": revision}
            self.content(name, self.hub.altered.get(name, held.files[name]), etag)

    def held(self, repo: str, revision: str) -> FakeRepository | None:
        """The repository, or None after a refusal was sent: an unknown one is answered as a private one is."""
        found = self.hub.repositories.get(repo)
        if found is None:
            self.refuse(401, code="RepoNotFound", message="Invalid username or password.")
        elif found.revision != revision:
            self.refuse(404, code="RevisionNotFound", message=f"Invalid rev id: {revision}")
            return None
        return found

    def content(self, name: str, whole: bytes, headers: Mapping[str, str]) -> None:
        """The file or the range of it that is asked for."""
        status, sent, more, breaks = 200, whole, {}, bool(self.hub.cut.get(name))
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(found[1]), min(int(found[2] or len(whole)), len(whole) - 1)
            status, sent = 206, whole[start : end + 1]
            # A piece of a file comes through.
            breaks = breaks and not found[2]
            more = {"Content-Range": f"bytes {start}-{end}/{len(whole)}"}
        announced = {"Content-Length": str(len(sent)), "Accept-Ranges": "bytes", **more, **headers}
        if self.command == "GET" and breaks:
            self.hub.cut[name] -= 1
            sent, self.close_connection = sent[: len(sent) // 2], True
        if self.command == "GET":
            self.hub.sent_bytes[name] = self.hub.sent_bytes.get(name, 0) + len(sent)
        self.reply(status, announced, sent)

    def refuse(self, status: int, *, code: str = "", message: str = "") -> None:
        said = {"X-Error-Code": code, "X-Error-Message": message}
        self.reply(status, {**{name: value for name, value in said.items() if value}, "Content-Length": "0"}, b"")

    def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(HTTPStatus(status))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _is_large(name: str, content: bytes) -> bool:
    return name.endswith((".safetensors", ".bin")) or len(content) > LARGE_BYTES * 5


def _entry(name: str, content: bytes) -> dict[str, object]:
    """As the hub lists a file; of a large one, git has only a pointer."""
    if not _is_large(name, content):
        return {"type": "file", "path": name, "size": len(content), "oid": _blob(content)}
    lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return {"type": "file", "path": name, "size": len(content), "oid": _blob(b"pointer"), "lfs": lfs}


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
