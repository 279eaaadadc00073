"""A Hugging Face Hub with one dataset, as far as its file system asks for it."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs

from fine_tune_pipeline_tests.web import Quiet, web_server

ID = "owner/tickets"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TREE = f"/api/datasets/{ID}/tree/{COMMIT}"


def hub(files: Mapping[str, bytes]) -> AbstractContextManager[str]:
    """Serves the files of one commit; gives the address."""
    return web_server(type("Hub", (Handler,), {"files": files}))


class Handler(Quiet, BaseHTTPRequestHandler):
    """Knows one commit of one dataset."""

    files: Mapping[str, bytes]

    def do_GET(self) -> None:
        place = self.path.partition("?")[0]
        if place == f"/api/datasets/{ID}/revision/{COMMIT}":
            self.say({"id": ID, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]})
        elif place.startswith(TREE):
            below = place.removeprefix(TREE).strip("/")
            found = [entry for entry in self.entries() if not below or str(entry["path"]).startswith(f"{below}/")]
            self.say(found) if found else self.refuse("EntryNotFound")
        elif (name := place.removeprefix(f"/datasets/{ID}/resolve/{COMMIT}/")) in self.files:
            self.send(self.files[name])
        else:
            self.refuse("RepoNotFound")

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = parse_qs(asked).get("paths", []) or json.loads(asked)["paths"]
        self.say([entry for entry in self.entries() if entry["path"] in paths])

    def entries(self) -> list[dict[str, object]]:
        folders = sorted({name.rpartition("/")[0] for name in self.files} - {""})
        return [
            *({"type": "directory", "path": name, "oid": "0" * 40} for name in folders),
            *({"type": "file", "path": name, "size": len(content), "oid": "0" * 40} for name, content in self.files.items()),
        ]

    def send(self, content: bytes) -> None:
        first, _, last = self.headers.get("Range", f"bytes=0-{len(content) - 1}").removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last or len(content)) + 1]
        where = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        self.answer(206 if "Range" in self.headers else 200, part, {"Content-Range": where})

    def say(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, code: str) -> None:
        self.answer(404, b"", {"X-Error-Code": code})

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
