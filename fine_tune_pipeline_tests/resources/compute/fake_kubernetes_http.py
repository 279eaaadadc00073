"""The HTTP of the API server for tests: paths, verbs, who may what, streams in chunks."""

import json
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from fine_tune_pipeline_tests.resources.compute.fake_kubelet import Log
    from fine_tune_pipeline_tests.resources.compute.fake_kubernetes import FakeCluster, Fault

PATH = re.compile(r"/(?:api/v1|apis/batch/v1)/namespaces/(?P<namespace>[^/]+)/(?P<resource>\w+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>log))?")
WHO = "system:serviceaccount:dagster:dagster"
REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "AlreadyExists",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
}
GROUPS = {"jobs": "batch"}


class Dropped(Exception):
    """The connection ends here."""


class ApiHandler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def __init__(self, cluster: "FakeCluster", *arguments: Any) -> None:
        self.cluster = cluster
        super().__init__(*arguments)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests' output stays readable."""

    def do_GET(self) -> None:
        self._answer({True: "get"})

    def do_POST(self) -> None:
        self._answer({False: "create"})

    def do_DELETE(self) -> None:
        self._answer({True: "delete"})

    def _answer(self, verbs: dict[bool, str]) -> None:
        from fine_tune_pipeline_tests.resources.compute.fake_kubernetes import Refused

        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = PATH.fullmatch(url.path)
        if path is None:
            self._send(404, {"message": "the server could not find the requested resource"})
            return
        named = path["name"] is not None
        resource = path["resource"] + (f"/{path['sub']}" if path["sub"] else "")
        verb = verbs.get(named) or ("watch" if query.get("watch") in ("true", "True", "1") else "list")
        fault = None
        try:
            fault = self._admitted(verb, resource, path["namespace"])
            self._carried_out(verb, resource, path["name"], query, json.loads(body or b"{}"), fault)
        except Refused as error:
            self._send(error.status, {"message": error.message}, retry_after=error.retry_after)
        except (Dropped, ConnectionError):
            self.close_connection = True

    def _admitted(self, verb: str, resource: str, namespace: str) -> "Fault | None":
        """As a real one asks: who are you, may you, is there such a namespace; only then what goes wrong."""
        from fine_tune_pipeline_tests.resources.compute.fake_kubernetes import NAMESPACE, Refused

        cluster = self.cluster
        with cluster.changed:
            cluster.used[verb, resource] += 1
            cluster.changed.notify_all()
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in cluster.tokens:
            raise Refused(401, "Unauthorized")
        if cluster.granted is not None and (verb, resource) not in cluster.granted:
            group = GROUPS.get(resource, "")
            what = f'cannot {verb} resource "{resource}" in API group "{group}" in the namespace "{namespace}"'
            raise Refused(403, f'{resource} is forbidden: User "{WHO}" {what}')
        if namespace != NAMESPACE and verb == "create":
            raise Refused(404, f'namespaces "{namespace}" not found')
        fault = cluster.fault(verb, resource)
        if fault is not None and fault.drop:
            raise Dropped
        if fault is not None and fault.status is not None:
            raise Refused(fault.status, fault.message, retry_after=fault.retry_after)
        return fault

    def _carried_out(self, verb: str, resource: str, name: str, query: dict[str, str], body: Any, fault: "Fault | None") -> None:
        from fine_tune_pipeline_tests.resources.compute.fake_kubernetes import Refused

        cluster = self.cluster
        match verb, resource:
            case "create", "jobs":
                self._done(verb, resource, 201, cluster.create_job(body))
            case "delete", "jobs":
                self._done(verb, resource, 200, cluster.delete_job(name, body))
            case "get", "pods/log":
                self._log(name, query, fault)
            case "get", _:
                found = cluster.objects.get((resource, name))
                if found is None:
                    raise Refused(404, f'{resource} "{name}" not found')
                self._send(200, found)
            case "list", _:
                with cluster.changed:
                    items = [shown for shown in cluster.all(resource) if _selected(shown, query)]
                    self._send(200, {"kind": "List", "metadata": {"resourceVersion": str(cluster.version)}, "items": items})
            case "watch", _:
                self._watch(resource, query, fault)

    def _done(self, verb: str, resource: str, status: int, shown: Any) -> None:
        fault = self.cluster.fault(verb, resource, after=True)
        if fault is not None:
            raise Dropped
        self._send(status, shown)

    def _send(self, status: int, shown: dict[str, Any], *, retry_after: str | None = None) -> None:
        if status >= 300:
            shown = {"kind": "Status", "status": "Failure", "code": status, "reason": REASONS.get(status, "InternalError"), **shown}
        with self.cluster.changed:
            text = json.dumps(shown).encode("utf-8")
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(text)

    def _begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, text: bytes) -> None:
        self.wfile.write(f"{len(text):x}\r\n".encode("ascii") + text + b"\r\n")

    def _event(self, kind: str, shown: Any) -> None:
        self._chunk(json.dumps({"type": kind, "object": shown}).encode("utf-8") + b"\n")

    def _watch(self, resource: str, query: dict[str, str], fault: "Fault | None") -> None:
        cluster, seen = self.cluster, int(query["resourceVersion"])
        end = time.monotonic() + float(query["timeoutSeconds"])
        self._begin_stream()
        if seen < cluster.oldest or (fault is not None and fault.gone):
            expired = {"kind": "Status", "code": 410, "reason": "Expired", "message": f"too old resource version: {seen}"}
            self._event("ERROR", expired)
        while time.monotonic() < end and not cluster.closing:
            with cluster.changed:
                news = [entry for entry in cluster.history if entry[0] > seen]
                if not news:
                    cluster.changed.wait(min(1.0, max(0.0, end - time.monotonic())))
            for version, of, kind, shown in news:
                seen = version
                if of == resource and _selected(shown, query):
                    self._event(kind, shown)
        if query.get("allowWatchBookmarks"):
            self._event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(seen)}})
        self._chunk(b"")

    def _log(self, pod: str, query: dict[str, str], fault: "Fault | None") -> None:
        from fine_tune_pipeline_tests.resources.compute.fake_kubernetes import Refused

        cluster, sent = self.cluster, 0
        lines = cluster.kubelet.logs.get(pod)
        if lines is None:
            raise Refused(404, f'pods "{pod}" not found')
        since, follow, position = query.get("sinceTime", "")[:19], "follow" in query, 0
        self._begin_stream()
        while not cluster.closing:
            with cluster.changed:
                news, over = lines.text[position:], lines.over
                if not news and not over and follow:
                    cluster.changed.wait(1.0)
            position += len(news)
            if fault is not None and fault.hang:
                cluster.kubelet.hold()
                continue
            for line in news:
                if line.decode("utf-8", errors="replace")[:19] < since:
                    continue
                if fault is not None and sent == fault.cut_lines:
                    self._cut(line, lines, fault)
                    return
                self._chunk(line)
                sent += 1
            if (over and not news) or not follow:
                break
        self._chunk(b"")

    def _cut(self, line: bytes, lines: "Log", fault: "Fault") -> None:
        if not fault.rotated:
            self._chunk(line[: len(line) // 2 + 16])
            raise Dropped
        with self.cluster.changed:
            del lines.text[: lines.text.index(line)]
        self._chunk(b"")


def _selected(shown: dict[str, Any], query: dict[str, str]) -> bool:
    """By labels, or by the two fields of events that are asked for."""
    wanted = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)
    labels = shown["metadata"].get("labels", {})
    fields = dict(part.split("=", 1) for part in query.get("fieldSelector", "").split(",") if part)
    of = {"involvedObject.uid": shown.get("involvedObject", {}).get("uid"), "type": shown.get("type")}
    return all(labels.get(name) == value for name, value in wanted.items()) and all(of[name] == value for name, value in fields.items())
