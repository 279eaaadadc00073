"""A Hugging Face Hub with one dataset, as far as its file system asks for it."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

ID = "owner/tickets"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(files: Mapping[str, bytes]) -> Iterator[str]:
    """Serves the files of one commit; gives the address."""
    folders = {name.rpartition("/")[0] for name in files} - {""}
    entries = [
        *({"type": "directory", "path": name, "oid": "0" * 40} for name in sorted(folders)),
        *({"type": "file", "path": name, "size": len(content), "oid": "0" * 40} for name, content in files.items()),
    ]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place = self.path.partition("?")[0]
            if place == f"/api/datasets/{ID}/revision/{COMMIT}":
                self.say({"id": ID, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
            elif place.startswith(f"/api/datasets/{ID}/tree/{COMMIT}"):
                below = place.removeprefix(f"/api/datasets/{ID}/tree/{COMMIT}").strip("/")
                found = [entry for entry in entries if not below or str(entry["path"]).startswith(f"{below}/")]
                self.say(found) if found else self.refuse("EntryNotFound")
            elif (name := place.removeprefix(f"/datasets/{ID}/resolve/{COMMIT}/")) in files:
                self.send(files[name])
            else:
                self.refuse("RepoNotFound")

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            paths = parse_qs(asked).get("paths", []) or json.loads(asked)["paths"]
            self.say([entry for entry in entries if entry["path"] in paths])

        def send(self, content: bytes) -> None:
            first, _, last = self.headers.get("Range", f"bytes=0-{len(content) - 1}").removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last or len(content)) + 1]
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
            self.end_headers()
            self.wfile.write(part)

        def say(self, answer: object) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def refuse(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the tests' output stays readable."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
