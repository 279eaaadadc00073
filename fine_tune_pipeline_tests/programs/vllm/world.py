"""Two vLLM servers with one tiny base model, two versions of it, and what step 7 would find that each of them answers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fine_tune_pipeline.programs.models import load_tokenizer
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.token_scores import TokenScore
from fine_tune_pipeline.programs.vllm.requests import VllmUpstream
from fine_tune_pipeline.programs.vllm.serving import VllmModels
from fine_tune_pipeline_tests.programs.vllm.fake_vllm import VARIABLE, Engine, Vllm, running
from fine_tune_pipeline_tests.served import PROMPTS, evaluated, tiny_adapter
from fine_tune_pipeline_tests.tiny import tiny_model

BASE = "bank-base"


@dataclass
class Ear:
    """A client that waits, or has left; what it has heard."""

    stays: bool = True
    streams: bool = False
    texts: list[str] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)

    def when_left(self, call: Callable[[], None]) -> None:
        if not self.stays:
            call()

    def wrote(self, text: str, scores: Sequence[TokenScore]) -> None:
        self.texts.append(text)
        self.scores += scores

    def done(self, answer: object) -> None:
        """Nothing: the answer is the future's."""


@dataclass(frozen=True)
class Weights:
    """Made once for all tests."""

    base: Path
    adapters: tuple[Path, Path]
    engine: Engine
    answers: dict[str, list[Any]]
    prompts: list[list[int]]


def make_weights(folder: Path) -> Weights:
    base = tiny_model(folder / "base", architecture="llama")
    first, second = (tiny_adapter(folder / f"adapter-{seed}", base, seed=seed) for seed in (1, 2))
    named = {BASE: None, "bank-v1": first, "bank-v2": second}
    tokenizer = load_tokenizer(base)
    return Weights(
        base=base,
        adapters=(first, second),
        engine=Engine(base),
        answers={name: evaluated(base, adapter) for name, adapter in named.items()},
        prompts=[encode(prompt, None, tokenizer=tokenizer, format=PromptFormat()).prompt_ids for prompt in PROMPTS],
    )


@dataclass
class Rig:
    """Servers that listen, and what the endpoint is told of them."""

    weights: Weights
    servers: list[Vllm]
    folder: Path

    def upstream(self, **changes: Any) -> VllmUpstream:
        told: dict[str, Any] = {
            "urls": tuple(server.url for server in self.servers),
            "api_key_variable": VARIABLE,
            "base": "base",
            "adapters_at": str(self.folder / "shared"),
            "seen_as": str(self.folder / "shared"),
            "max_lora_rank": 16,
            "timeout_seconds": 20.0,
            "start_seconds": 0.0,
            "requests_at_once": 8,
        }
        return VllmUpstream(**told | changes)

    @contextmanager
    def models(self, **changes: Any) -> Iterator[VllmModels]:
        """The endpoint's models, with a state folder that stays over a restart."""
        state = self.folder / "state"
        state.mkdir(exist_ok=True)
        made = VllmModels(self.upstream(**changes), base_name=BASE, model=self.weights.base, format=PromptFormat(), state=state)
        try:
            yield made
        finally:
            for server in self.servers:
                server.open.set()
                server.streams.more.set()
            made.close()

    def published(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "shared").glob("*"))


@contextmanager
def rig(weights: Weights, folder: Path, *, servers: int = 2) -> Iterator[Rig]:
    made = [Vllm(weights.engine) for _ in range(servers)]
    with running(made[0]):
        if servers == 1:
            yield Rig(weights, made, folder)
            return
        with running(made[1]):
            yield Rig(weights, made, folder)
