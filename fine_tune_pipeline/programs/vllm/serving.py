"""The endpoint's models when vLLM holds them: the base and the versions, each under its served name.

Every request goes to vLLM as soon as there is room, so that vLLM batches; the endpoint's model thread only hands them over.
"""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from fine_tune_pipeline.programs.contracts import Contract
from fine_tune_pipeline.programs.decoding_requests import Decoding, JsonDecoding, LabelDecoding
from fine_tune_pipeline.programs.hosted.upstream import UpstreamBusy, UpstreamFailed, UpstreamNotSetUp, UpstreamRefused, UpstreamSlow
from fine_tune_pipeline.programs.models import load_tokenizer
from fine_tune_pipeline.programs.pieces import Pieces
from fine_tune_pipeline.programs.prompts import answer_text, end_id, stops
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving.wishes import ORDINARY, Ability, Wanted, Wish
from fine_tune_pipeline.programs.vllm.adapter_files import publish, refuse_unservable_adapter
from fine_tune_pipeline.programs.vllm.adapters import Adapters, listing_problems
from fine_tune_pipeline.programs.vllm.asking import Asking
from fine_tune_pipeline.programs.vllm.completions import Completion
from fine_tune_pipeline.programs.vllm.loop_thread import canceller
from fine_tune_pipeline.programs.vllm.replica import (
    KeyRefused,
    Listed,
    ModelMissing,
    ReplicaBusy,
    ReplicaDown,
    ReplicaError,
    ReplicaRefused,
    ReplicaSlow,
)
from fine_tune_pipeline.programs.vllm.replicas import NoVllmKey, Replicas, key_of
from fine_tune_pipeline.programs.vllm.requests import VllmUpstream
from fine_tune_pipeline.programs.vllm.telling import Telling, inside

STATE_FILE = "vllm.json"

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
        self._asking = Asking(upstream, self._replicas, self._adapters, say=self._say)
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
        self._asking.close()
        self._loading.shutdown()
        self._replicas.close()

    def _load(self, name: str, folder: Path) -> None:
        refuse_unservable_adapter(folder, max_lora_rank=self._upstream.max_lora_rank)
        published = publish(folder, name=name, at=self._upstream.adapters_at)
        path = f"{self._upstream.seen_as.rstrip('/')}/{published}"
        self._adapters.load(self._upstream.named(name, path=path), path, again=self._known.paths.get(name) == path)
        self._change(lambda known: ({**known.paths, name: path}, _without(known.retired, name)))
        self._forget_retired()

    def _forget_retired(self) -> None:
        for name in self._known.retired:
            if not self._asked[name]:
                self._forget(name)

    def _forget(self, name: str) -> None:
        self._adapters.unload(self._upstream.named(name, path=self._known.paths[name]))
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
        future = self._asking.submit(self._answer(name, prompt, most))
        future.add_done_callback(lambda _: self._answered(name))
        return future

    def _answered(self, name: str) -> None:
        with self._changing:
            self._asked[name] -= 1
        self._room.release()

    async def _answer(self, name: str, prompt: Sequence[int] | Wanted, most: int) -> Completion:
        """One answer, as its client wishes it; ends when the client leaves.

        Raises:
            UpstreamBusy, UpstreamFailed, UpstreamRefused, UpstreamSlow: what the client is told.
        """
        wish, telling = ORDINARY, None
        if isinstance(prompt, Wanted):
            wish, telling, most = prompt.wish, self._telling(prompt), prompt.max_new_tokens
            prompt.heard.when_left(canceller())
        try:
            # Who has left already is found out here, before anything is asked.
            await asyncio.sleep(0)
            path = self._known.paths.get(name)
            there = self._upstream.base if path is None else self._upstream.named(name, path=path)
            came = await self._asking.answer(self._body(there, prompt, most, wish), path=path, telling=telling)
        except ReplicaError as error:
            self._say(f"{type(error).__name__}: {error}")
            raise _for_clients(error, begun=telling is not None and telling.begun) from error
        except asyncio.CancelledError:
            raise UpstreamFailed("the client has left") from None
        text = answer_text(came.text, format=self._format, stop=wish.stop) if self._free(wish) else came.text.strip()
        top = wish.top_logprobs
        answer = replace(came, text=text, scores=None if top is None else inside(came.scores or (), text=came.text, answer=text, top=top))
        if telling is not None:
            telling.rest(answer)
        return answer

    def _telling(self, wanted: Wanted) -> Telling | None:
        """Where pieces are wished; an answer out of a closed list comes whole."""
        if not wanted.heard.streams or self.ability == "labels":
            return None
        pieces = Pieces(format=self._format, stop=wanted.wish.stop, free=self._free(wanted.wish))
        return Telling(wanted.heard, pieces=pieces, top=wanted.wish.top_logprobs)

    def _free(self, wish: Wish) -> bool:
        """Whether an answer is text that a stop string ends; what is kept inside a schema or a list ends by itself."""
        return self._decoding is None and wish.json is None

    def _body(self, there: str, prompt: Sequence[int] | Wanted, most: int, wish: Wish) -> dict[str, Any]:
        """The request for the likeliest answer, or as it is wished. What vLLM would else take from the model's generation_config.json is
        said, too."""
        body: dict[str, Any] = {
            "model": there,
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


def _for_clients(error: ReplicaError, *, begun: bool) -> Exception:
    """Who asks learns what to do; addresses stay in the server's log.

    Args:
        begun: some of the answer was said already.
    """
    if isinstance(error, ReplicaBusy):
        return UpstreamBusy("the model server asks for patience; try again later")
    if isinstance(error, ReplicaSlow):
        return UpstreamSlow("the model server did not answer in time; try again later, or ask for a shorter answer")
    if isinstance(error, ReplicaRefused):
        return UpstreamRefused("the model server does not take this request; change its text")
    if begun:
        return UpstreamFailed("the model server broke the answer off; ask again")
    return UpstreamFailed("the model server does not answer; the endpoint's log says more")
