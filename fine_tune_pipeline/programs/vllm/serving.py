"""The endpoint's models when vLLM holds them: the base and the versions, each under its served name.

Every request goes to vLLM as soon as there is room, so that vLLM batches; the endpoint's model thread only hands them over.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from fine_tune_pipeline.programs.contracts import Contract
from fine_tune_pipeline.programs.decoding_requests import Decoding, JsonDecoding, LabelDecoding
from fine_tune_pipeline.programs.hosted.upstream import UpstreamBusy, UpstreamFailed, UpstreamNotSetUp, UpstreamRefused, UpstreamSlow
from fine_tune_pipeline.programs.models import load_tokenizer
from fine_tune_pipeline.programs.prompts import answer_text, end_id, stops
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving.wishes import ORDINARY, Ability, Wanted, Wish
from fine_tune_pipeline.programs.token_scores import TokenScore
from fine_tune_pipeline.programs.vllm.adapter_files import publish, refuse_unservable_adapter
from fine_tune_pipeline.programs.vllm.adapters import Adapters, listing_problems
from fine_tune_pipeline.programs.vllm.replica import (
    Completion,
    KeyRefused,
    Listed,
    ModelMissing,
    Replica,
    ReplicaBusy,
    ReplicaDown,
    ReplicaError,
    ReplicaRefused,
    ReplicaSlow,
)
from fine_tune_pipeline.programs.vllm.replicas import NoVllmKey, Replicas, key_of
from fine_tune_pipeline.programs.vllm.requests import VllmUpstream

STATE_FILE = "vllm.json"

TRIES = 3
"""Of one request, at replicas that fail by themselves; greedy answers can be asked for again."""

PAUSE_SECONDS = 0.2
"""Before the same replica is asked again: it may be just coming back."""

START_PAUSE_SECONDS = 0.5


class UnknownModel(LookupError):
    """No version with this name is loaded."""


class VllmState(Contract):
    """`vllm.json` in the endpoint's folder: path of each version as vLLM sees it; `retired` ones are unloaded with the next load."""

    paths: dict[str, str] = {}
    retired: tuple[str, ...] = ()


class VllmModels:
    """Asks vLLM; a request that fails takes no other with it."""

    def __init__(
        self,
        upstream: VllmUpstream,
        *,
        base_name: str,
        model: Path,
        format: PromptFormat,
        state: Path,
        decoding: Decoding | None = None,
    ) -> None:
        """
        Args:
            model: folder of the base model, for its tokenizer and what ends an answer; its weights are not loaded.
            state: folder of the endpoint.

        Raises:
            UpstreamNotSetUp: there is no key, it is wrong, or the servers serve something else: starting again would not help.
            ReplicaDown, ReplicaSlow: no replica answers within `upstream.start_seconds`.
        """
        self._upstream = upstream
        self._base_name = base_name
        self._format = format
        self._decoding = decoding
        self._say = Reporter(None).log
        try:
            self._replicas = Replicas(upstream, key=key_of(upstream))
        except NoVllmKey as error:
            raise UpstreamNotSetUp(str(error)) from error
        self._adapters = Adapters(upstream, self._replicas, say=self._say)
        self._stop_ids = stop_ids(model, format=format)
        self._context_tokens = context_tokens(model, self._first_listing())
        self._file = state / STATE_FILE
        self._known = VllmState.read(self._file) if self._file.exists() else VllmState()
        self._changing = threading.Lock()
        self._asked: Counter[str] = Counter()
        self._room = threading.Semaphore(upstream.requests_at_once)
        self._asking = ThreadPoolExecutor(upstream.requests_at_once, thread_name_prefix="vllm")
        # Apart, so that a version loads while requests are answered; one after the other.
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="vllm-load")

    @property
    def context_tokens(self) -> int:
        """Prompt and answer together, as base model and server allow."""
        return self._context_tokens

    @property
    def ability(self) -> Ability:
        """What its answers are."""
        if isinstance(self._decoding, LabelDecoding):
            return "labels"
        return "free" if self._decoding is None else "json"

    def load(self, name: str, folder: Path) -> "Future[None]":
        """Copy an adapter to where vLLM reads it, and have every replica load it.

        Raises, by the future:
            UnservableAdapter, NotPublished, NotLoaded: no replica has it.
            ReplicaDown: it was served before, and no replica is up.
        """
        return self._loading.submit(self._load, name, folder)

    def unload(self, name: str) -> None:
        """Retire a version: requests that name it already are still answered, so vLLM forgets it when the next one has been loaded."""
        self._change(lambda known: (known.paths, (*known.retired, name) if name in known.paths else known.retired))

    def generate(self, name: str, prompts: "Sequence[Sequence[int] | Wanted]", max_new_tokens: int) -> "list[Future[Completion]]":
        """Hand the prompts over, waiting while vLLM has as many as it is to have; answers are as clients wish, where prompts are `Wanted`.

        Raises:
            UnknownModel: it is not loaded.
        """
        if name != self._base_name and name not in self._known.paths:
            raise UnknownModel(f"{name}: not loaded; loaded are {', '.join(self._known.paths) or 'none'}")
        return [self._submit(name, prompt, max_new_tokens) for prompt in prompts]

    def close(self) -> None:
        """End the threads, once what was asked is answered."""
        self._asking.shutdown()
        self._loading.shutdown()
        self._replicas.close()

    def _load(self, name: str, folder: Path) -> None:
        refuse_unservable_adapter(folder, max_lora_rank=self._upstream.max_lora_rank)
        published = publish(folder, name=name, at=self._upstream.adapters_at)
        path = f"{self._upstream.seen_as.rstrip('/')}/{published}"
        self._adapters.load(name, path, again=self._known.paths.get(name) == path)
        self._change(lambda known: ({**known.paths, name: path}, _without(known.retired, name)))
        self._forget_retired()

    def _forget_retired(self) -> None:
        for name in self._known.retired:
            if not self._asked[name]:
                self._forget(name)

    def _forget(self, name: str) -> None:
        self._adapters.unload(name)
        self._change(lambda known: ({other: path for other, path in known.paths.items() if other != name}, _without(known.retired, name)))

    def _change(self, change: Callable[[VllmState], tuple[dict[str, str], tuple[str, ...]]]) -> None:
        """(paths, retired) of what is known now -> of what is known then; on disk too."""
        with self._changing:
            paths, retired = change(self._known)
            known = VllmState(paths=paths, retired=retired)
            known.write(self._file)
            self._known = known

    def _submit(self, name: str, prompt: Sequence[int] | Wanted, most: int) -> "Future[Completion]":
        self._room.acquire()
        with self._changing:
            self._asked[name] += 1
        future = self._asking.submit(self._answer, name, prompt, most)
        future.add_done_callback(lambda _: self._answered(name))
        return future

    def _answered(self, name: str) -> None:
        with self._changing:
            self._asked[name] -= 1
        self._room.release()

    def _answer(self, name: str, prompt: Sequence[int] | Wanted, most: int) -> Completion:
        wish = prompt.wish if isinstance(prompt, Wanted) else ORDINARY
        if isinstance(prompt, Wanted):
            most = prompt.max_new_tokens
            if not prompt.heard.stays:
                raise UpstreamFailed("the client has left")
        try:
            came = self._asked_of_replicas(name, self._body(name, prompt, most, wish))
        except ReplicaError as error:
            self._say(f"{type(error).__name__}: {error}")
            raise _for_clients(error) from error
        kept_inside = self._decoding is not None or wish.json is not None
        text = came.text.strip() if kept_inside else answer_text(came.text, format=self._format, stop=wish.stop)
        scores = None if wish.top_logprobs is None else scores_of(came, answer=text, top=wish.top_logprobs)
        return replace(came, text=text, scores=scores)

    def _asked_of_replicas(self, name: str, body: Mapping[str, Any]) -> Completion:
        deadline = time.monotonic() + self._upstream.timeout_seconds
        tried: list[str] = []
        while True:
            replica = self._replicas.next(tried)
            if replica.url in tried:
                time.sleep(PAUSE_SECONDS)
            tried.append(replica.url)
            left = deadline - time.monotonic()
            if left <= 0:
                raise ReplicaSlow(f"{', '.join(tried)}: no answer within {self._upstream.timeout_seconds:g} seconds")
            try:
                with self._replicas.asking(replica):
                    return replica.complete(body, seconds=left)
            except (ReplicaDown, ModelMissing) as error:
                lost = isinstance(error, ModelMissing) and not self._brought_back(replica, name)
                if len(tried) == TRIES or (lost and not self._others(tried)):
                    raise

    def _brought_back(self, replica: Replica, name: str) -> bool:
        path = self._known.paths.get(name)
        try:
            return path is not None and self._adapters.heal(replica, name, path)
        except ReplicaError as error:
            self._say(f"{name} is lost there: {error}")
            return False

    def _others(self, tried: Sequence[str]) -> bool:
        return any(replica.url not in tried for replica in self._replicas.all())

    def _body(self, name: str, prompt: Sequence[int] | Wanted, most: int, wish: Wish) -> dict[str, Any]:
        """The request for the likeliest answer, or as it is wished. What vLLM would else take from the model's generation_config.json is
        said, too."""
        body: dict[str, Any] = {
            "model": self._upstream.base if name == self._base_name else name,
            "prompt": list(prompt),
            "add_special_tokens": False,
            "max_tokens": most,
            "temperature": 0,
            "repetition_penalty": 1.0,
            "logprobs": max(1, wish.top_logprobs or 0),
            "stop_token_ids": self._stop_ids,
        }
        if wish.sampling is not None:
            body |= {"temperature": wish.sampling.temperature, "top_p": wish.sampling.top_p, "seed": wish.sampling.seed}
        decoding = wish.json or self._decoding
        if decoding is None:
            return body | {"stop": [*stops(self._format), *wish.stop]}
        return body | {"structured_outputs": structured(decoding, format=self._format)}

    def _first_listing(self) -> Listed:
        """What the first replica that answers says of the base model."""
        deadline = time.monotonic() + self._upstream.start_seconds
        while True:
            try:
                return self._listing()
            except (ReplicaDown, ReplicaSlow) as error:
                if time.monotonic() > deadline:
                    raise
                self._say(f"waiting for vLLM: {error}")
                time.sleep(START_PAUSE_SECONDS)

    def _listing(self) -> Listed:
        problem: ReplicaError | None = None
        for replica in self._replicas.all():
            try:
                listed = replica.models()
            except (ReplicaDown, ReplicaSlow) as error:
                problem = error
                continue
            except (KeyRefused, ReplicaRefused, ModelMissing, ReplicaBusy) as error:
                raise UpstreamNotSetUp(str(error)) from error
            if wrong := next(listing_problems(replica, listed, self._upstream), None):
                raise UpstreamNotSetUp(wrong)
            return listed[self._upstream.base]
        assert problem is not None
        raise problem


def scores_of(came: Completion, *, answer: str, top: int) -> tuple[TokenScore, ...]:
    """Of the tokens that begin inside the answer, each with its `top` likeliest: no end token, nothing that a stop string has cut off."""
    last = len(came.text) - len(came.text.lstrip()) + len(answer)
    start, found = 0, []
    for score in came.scores or ():
        if start >= last:
            break
        likeliest = sorted(score.top, key=lambda each: -each[1])[:top]
        found.append(score._replace(top=tuple(likeliest)))
        start += len(score.token)
    return tuple(found)


def _without(names: Sequence[str], name: str) -> tuple[str, ...]:
    return tuple(each for each in names if each != name)


def stop_ids(model: Path, *, format: PromptFormat) -> list[int]:
    """Tokens at which an answer ends, as `decoding.end_ids` has them: those that training teaches, and those that the files name."""
    tokenizer = load_tokenizer(model)
    ends = {end_id(tokenizer=tokenizer, format=format)}
    path = model / "generation_config.json"
    generation = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for ids in (tokenizer.eos_token_id, generation.get("eos_token_id")):
        ends.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return sorted(ends)


def context_tokens(model: Path, base: Listed) -> int:
    """What prompt and answer may have together: as the model's configuration says, and as the server was started."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    own = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    known = [limit for limit in (own, base.max_model_len) if limit]
    if not known:
        raise UpstreamNotSetUp(f"{model}/config.json names no max_position_embeddings, and vLLM no max_model_len")
    return min(known)


def structured(decoding: Decoding, *, format: PromptFormat) -> dict[str, Any]:
    """vLLM's `structured_outputs`: the same answers are possible; of a closed list vLLM takes the likeliest token after token."""
    if isinstance(decoding, LabelDecoding):
        before = " " if format.style == "plain" else ""
        return {"choice": [before + label for label in decoding.labels]}
    assert isinstance(decoding, JsonDecoding)
    return {"json": decoding.answer_schema}


def _for_clients(error: ReplicaError) -> Exception:
    """Who asks learns what to do; addresses stay in the server's log."""
    if isinstance(error, ReplicaBusy):
        return UpstreamBusy("the model server asks for patience; try again later")
    if isinstance(error, ReplicaSlow):
        return UpstreamSlow("the model server did not answer in time; try again later, or ask for a shorter answer")
    if isinstance(error, ReplicaRefused):
        return UpstreamRefused("the model server does not take this request; change its text")
    return UpstreamFailed("the model server does not answer; the endpoint's log says more")
