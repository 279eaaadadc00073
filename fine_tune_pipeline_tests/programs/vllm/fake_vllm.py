"""A vLLM server on this machine, written from its documentation and its source: models, completions (whole and as streams), loading and
unloading of adapters.

It computes: greedy, token by token, with the model and the adapters that it was given, in a loop of its own that shares nothing with ours.
Bodies are checked as strictly as vLLM does, and more: a field that is not in its protocol is refused, so that no wish is made in vain.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from fine_tune_pipeline_tests.programs.vllm.streams import Streams, watched
from fine_tune_pipeline_tests.web import Quiet, web_server

Body = dict[str, Any]

KEY = "key-of-the-vllm-servers"
VARIABLE = "TEST_VLLM_KEY"
WAIT = 20.0

KNOWN_FIELDS = {
    "model", "prompt", "max_tokens", "temperature", "logprobs", "stop", "stop_token_ids", "add_special_tokens", "repetition_penalty",
    "structured_outputs", "n", "seed", "top_p", "top_k", "min_p", "skip_special_tokens", "return_token_ids", "stream", "stream_options",
}  # fmt: skip
"""Of `CompletionRequest`, as far as a client like ours may use them."""


@dataclass
class Fault:
    """Answers the next `times` requests to a path in place of the server; status 0 closes the connection without a word."""

    path: str
    status: int
    body: Body | str = field(default_factory=lambda: {"error": {"message": "internal error", "type": "InternalServerError", "code": 500}})
    times: int = 1


class Engine:
    """The weights; one computation at a time."""

    def __init__(self, base: Path) -> None:
        self.folder = base
        self.tokenizer = AutoTokenizer.from_pretrained(str(base), local_files_only=True)
        self.model: Any = AutoModelForCausalLM.from_pretrained(str(base), local_files_only=True).eval()
        self.lock = threading.Lock()
        self.peft: PeftModel | None = None

    def add(self, path: str) -> None:
        with self.lock:
            if self.peft is None:
                self.peft = PeftModel.from_pretrained(self.model, path, adapter_name=_slot(path)).eval()
            elif _slot(path) not in self.peft.peft_config:
                self.peft.load_adapter(path, adapter_name=_slot(path))
                self.peft.eval()

    def write(self, path: str | None, prompt: list[int], wanted: Body) -> Iterator[Body]:
        """Token by token: the token with its log-probability and the likeliest, the whole text so far, and why it ended."""
        ids, text, reason = list(prompt), "", None
        drawing = torch.Generator().manual_seed(wanted.get("seed") or 0)
        ends = {self.tokenizer.eos_token_id, *(wanted.get("stop_token_ids") or [])}
        heat, most = wanted.get("temperature", 1.0), wanted.get("max_tokens", 16)
        while reason is None:
            scores = self._scores(path, ids)
            token = int(torch.multinomial((scores / heat).exp(), 1, generator=drawing)) if heat else int(scores.argmax())
            ids.append(token)
            best = [token, *scores.topk(wanted.get("logprobs") or 1).indices.tolist()]
            top = {self.tokenizer.decode([each]): float(scores[each]) for each in best}
            if token in ends:
                reason = "stop"
            else:
                text = self.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
                found = [text.index(each) for each in wanted.get("stop") or [] if each in text]
                text, reason = (text[: min(found)], "stop") if found else (text, None)
            if reason is None and len(ids) - len(prompt) == most:
                reason = "length"
            yield {"token": self.tokenizer.decode([token]), "logprob": float(scores[token]), "top": top, "text": text, "reason": reason}

    def _scores(self, path: str | None, ids: list[int]) -> torch.Tensor:
        """Log-probabilities of the next token [V]."""
        with self.lock, torch.inference_mode():
            model = self.model if self.peft is None else self.peft
            if self.peft is not None and path is not None:
                self.peft.set_adapter(_slot(path))
            with self.peft.disable_adapter() if self.peft is not None and path is None else nullcontext():
                return model(input_ids=torch.tensor([ids])).logits[0, -1].float().log_softmax(dim=-1)


def _slot(path: str) -> str:
    # PEFT takes no dot in a name.
    return path.replace(".", "_")


@dataclass
class Vllm:
    """One server: what it has loaded, what it was asked, and what is to go wrong."""

    engine: Engine
    base: str = "base"
    key: str | None = KEY
    runtime: bool = True
    max_lora_rank: int = 16
    max_model_len: int | None = 512
    mount: tuple[str, str] = ("", "")
    """(path in its container, folder of this machine) that stand for each other."""
    adapters: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    url: str = ""
    open: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    abort: bool = False
    streams: Streams = field(default_factory=Streams)

    def __post_init__(self) -> None:
        self.open.set()

    def requests(self, path: str) -> list[Any]:
        return [body for asked, body in self.asked if asked == path]

    def restart(self) -> None:
        """As a pod that was started anew: what was loaded while it ran is gone."""
        self.adapters.clear()

    def answer(self, path: str, key: str | None, body: Any) -> tuple[int, Body | str | Iterator[Body]]:
        self.asked.append((path, body))
        if self.key is not None and key != self.key:
            return 401, {"error": "Unauthorized"}
        fault = next((fault for fault in self.faults if fault.path == path and fault.times), None)
        if fault is not None:
            fault.times -= 1
            return fault.status, fault.body
        routes: dict[str, Any] = {"/v1/models": self._models, "/v1/completions": self._completions}
        if self.runtime:
            routes |= {"/v1/load_lora_adapter": self._load, "/v1/unload_lora_adapter": self._unload}
        if path not in routes:
            return 404, {"detail": "Not Found"}
        return routes[path](body)

    def _models(self, _: Any) -> tuple[int, Body]:
        card = {"object": "model", "created": 0, "owned_by": "vllm"}
        base = {**card, "id": self.base, "root": str(self.engine.folder), "parent": None, "max_model_len": self.max_model_len}
        loaded = [
            {**card, "id": name, "root": path, "parent": self.base, "max_model_len": None} for name, path in dict(self.adapters).items()
        ]
        return 200, {"object": "list", "data": [base, *loaded]}

    def _load(self, body: Body) -> tuple[int, Body | str]:
        name, path = body["lora_name"], body["lora_path"]
        if not body.get("load_inplace", False) and name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput")
        folder = Path(self._here(path))
        if not (folder / "adapter_config.json").exists():
            return _error(404, f"Loading lora {name} failed: No adapter found for {path}", "NotFoundError")
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if config["r"] > self.max_lora_rank:
            return _error(400, f"LoRA rank {config['r']} is greater than max_lora_rank {self.max_lora_rank}.", "BadRequestError")
        if config.get("use_dora") or config.get("modules_to_save"):
            return _error(400, "vLLM does not yet support DoRA.", "BadRequestError")
        self.engine.add(str(folder))
        self.adapters[name] = path
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _unload(self, body: Body) -> tuple[int, Body | str]:
        name = body["lora_name"]
        if name not in self.adapters:
            return _error(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        del self.adapters[name]
        return 200, f"Success: LoRA adapter '{name}' removed successfully."

    def _completions(self, body: Body) -> tuple[int, Body | Iterator[Body]]:
        if refused := self._refused(body):
            return refused
        path = self._path(body["model"])
        self.entered.set()
        assert self.open.wait(WAIT)
        steps = self.engine.write(path, body["prompt"], body)
        if body.get("stream"):
            return 200, self._streamed(steps, body)
        made = list(steps)
        choice = self._choice(made, text=made[-1]["text"])
        choice["finish_reason"] = "abort" if self.abort else choice["finish_reason"]
        return 200, {**_head(body), "choices": [choice], "usage": _usage(body, len(made))}

    def _refused(self, body: Body) -> tuple[int, Body] | None:
        unknown = sorted(set(body) - KNOWN_FIELDS)
        if unknown:
            return _error(400, f"the stand-in knows no {unknown}", "BadRequestError")
        if "stream_options" in body and not body.get("stream"):
            return _error(400, "Stream options can only be defined when `stream=True`.", "BadRequestError")
        prompt = body["prompt"]
        if not self.serves(body["model"]):
            return _error(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
        if not isinstance(prompt, list) or not all(isinstance(token, int) for token in prompt):
            return _error(400, "the stand-in takes token ids", "BadRequestError")
        if self.max_model_len is not None and len(prompt) + body.get("max_tokens", 16) > self.max_model_len:
            return _error(400, f"This model's maximum context length is {self.max_model_len} tokens.", "BadRequestError")
        return None

    def serves(self, name: str) -> bool:
        return name == self.base or name in self.adapters

    def _path(self, name: str) -> str | None:
        return None if name == self.base else self._here(self.adapters[name])

    def _streamed(self, steps: Iterator[Body], body: Body) -> Iterator[Body]:
        """What is new with each token. Text that may become a stop string is held back, and half characters, as vLLM does."""
        held = max((len(each) - 1 for each in body.get("stop") or []), default=0)
        sent = count = 0
        for step in steps:
            count += 1
            sure = step["text"] if step["reason"] else step["text"].rstrip("\ufffd")[: max(0, len(step["text"]) - held)]
            yield {**_head(body), "choices": [self._choice([step], text=sure[sent:])]}
            sent = max(sent, len(sure))
        if (body.get("stream_options") or {}).get("include_usage"):
            yield {**_head(body), "choices": [], "usage": _usage(body, count)}

    def _choice(self, steps: list[Body], *, text: str) -> Body:
        told = {"token_logprobs": "logprob", "tokens": "token", "top_logprobs": "top"}
        logprobs = {name: [step[key] for step in steps] for name, key in told.items()}
        return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": steps[-1]["reason"], "stop_reason": None}

    def _here(self, path: str) -> str:
        there, here = self.mount
        return path.replace(there, here, 1) if there and path.startswith(there) else path


def _head(body: Body) -> Body:
    return {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": body["model"]}


def _usage(body: Body, tokens: int) -> Body:
    return {"prompt_tokens": len(body["prompt"]), "completion_tokens": tokens, "total_tokens": len(body["prompt"]) + tokens}


def _error(status: int, message: str, kind: str) -> tuple[int, Body]:
    return status, {"error": {"message": message, "type": kind, "param": None, "code": status}}


@contextmanager
def running(server: Vllm) -> Iterator[Vllm]:
    """The server listens while the block runs; it gets its `url`."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._respond(None)

        def do_POST(self) -> None:
            self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _respond(self, body: Any) -> None:
            gone = watched(self.connection)
            scheme, _, key = self.headers.get("Authorization", "").partition(" ")
            status, said = server.answer(self.path, key if scheme == "Bearer" else None, body)
            self.close_connection = True
            if status == 0:
                return
            if not isinstance(said, str | dict):
                server.streams.send(self, said, gone=gone)
                return
            # Of a whole answer vLLM would end the computation; here it is only counted.
            server.streams.left += gone.is_set()
            content = (said if isinstance(said, str) else json.dumps(said)).encode("utf-8")
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                # The client has given up.
                return

    with web_server(Handler) as url:
        server.url = url
        try:
            yield server
        finally:
            server.open.set()
            server.streams.more.set()
