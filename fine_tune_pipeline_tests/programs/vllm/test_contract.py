"""What the endpoint needs of a vLLM server, of the stand-in always and of a real one where VLLM_URL names it (`pytest -m vllm`).

A real server is started as docs/vllm.md says, with a base model whose folder lies here too:
    VLLM_URL=http://127.0.0.1:8000 VLLM_MODEL=/models/base VLLM_ADAPTERS_AT=/shared/adapters pytest -m vllm THIS_FOLDER
VLLM_BASE is the base model's name there (`base`), VLLM_SEEN_AS the folder of adapters as the server sees it, VLLM_API_KEY its key.
"""

import asyncio
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from fine_tune_pipeline.programs.models import load_tokenizer
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving.wishes import Wanted, Wish
from fine_tune_pipeline.programs.vllm.adapter_files import publish
from fine_tune_pipeline.programs.vllm.adapters import NotLoaded
from fine_tune_pipeline.programs.vllm.completions import Completion, complete
from fine_tune_pipeline.programs.vllm.replica import AdapterRefused, KeyRefused, ModelMissing, Replica
from fine_tune_pipeline.programs.vllm.replicas import Replicas, key_of
from fine_tune_pipeline.programs.vllm.requests import VllmUpstream
from fine_tune_pipeline.programs.vllm.serving import VllmModels
from fine_tune_pipeline_tests.programs.vllm.world import BASE, Ear, Weights, rig
from fine_tune_pipeline_tests.served import NEW_TOKENS, PROMPTS, evaluated, tiny_adapter

WAIT = 300.0


@dataclass(frozen=True)
class Server:
    """One server, a base model whose folder is known, and two adapters of it; `least` is the share of answers that must be equal."""

    upstream: VllmUpstream
    base: Path
    adapters: tuple[Path, Path]
    least: float

    @property
    def prompts(self) -> list[list[int]]:
        tokenizer = load_tokenizer(self.base)
        return [encode(prompt, None, tokenizer=tokenizer, format=PromptFormat()).prompt_ids for prompt in PROMPTS]


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.vllm)])
def server(request: pytest.FixtureRequest, weights: Weights, tmp_path: Path) -> Iterator[Server]:
    if request.param == "stand-in":
        with rig(weights, tmp_path, servers=1) as made:
            yield Server(made.upstream(), weights.base, weights.adapters, 1.0)
        return
    said = os.environ
    base, at = Path(said["VLLM_MODEL"]), said["VLLM_ADAPTERS_AT"]
    upstream = VllmUpstream(
        urls=(said["VLLM_URL"],),
        api_key_variable="VLLM_API_KEY" if said.get("VLLM_API_KEY") else None,
        base=said.get("VLLM_BASE", "base"),
        adapters_at=at,
        seen_as=said.get("VLLM_SEEN_AS", at),
        max_lora_rank=16,
    )
    adapters = tuple(tiny_adapter(tmp_path / str(seed), base, seed=seed) for seed in (1, 2))
    yield Server(upstream, base, (adapters[0], adapters[1]), 0.6)


@pytest.fixture
def replica(server: Server) -> Iterator[Replica]:
    replicas = Replicas(server.upstream, key=key_of(server.upstream))
    yield replicas.all()[0]
    replicas.close()


@pytest.fixture
def models(server: Server, replica: Replica, tmp_path: Path) -> Iterator[VllmModels]:
    made = VllmModels(server.upstream, base_name=BASE, model=server.base, format=PromptFormat(), state=tmp_path)
    yield made
    for name in ("contract-v1", "contract-v2"):
        replica.unload(name, seconds=60)
    made.close()


def answers(models: VllmModels, server: Server, name: str) -> list[Completion]:
    return [future.result(WAIT) for future in models.generate(name, server.prompts, NEW_TOKENS)]


def asked_for(replica: Replica, name: str, prompt: list[int]) -> Completion:
    async def asked() -> Completion:
        async with httpx.AsyncClient(trust_env=False) as http:
            return await complete(replica, http, {"model": name, "prompt": prompt, "max_tokens": 1, "temperature": 0}, seconds=60)

    return asyncio.run(asked())


def test_base_and_versions_answer_as_evaluated_and_each_in_its_own_way(server: Server, models: VllmModels):
    for name, folder in zip(("contract-v1", "contract-v2"), server.adapters, strict=True):
        models.load(name, folder).result(WAIT)
    named = {BASE: None, "contract-v1": server.adapters[0], "contract-v2": server.adapters[1]}
    found = {name: answers(models, server, name) for name in named}
    for name, adapter in named.items():
        wanted = evaluated(server.base, adapter)
        equal = sum(one.text == other.text for one, other in zip(found[name], wanted, strict=True))
        assert equal >= server.least * len(wanted)
        assert all(one.logprob is not None and one.logprob <= 0 for one in found[name])
        assert all(1 <= one.tokens <= NEW_TOKENS for one in found[name])
    assert len({tuple(one.text for one in texts) for texts in found.values()}) == 3
    assert math.isfinite(found[BASE][0].logprob or math.nan)


@pytest.mark.parametrize("wish", [Wish(), Wish(top_logprobs=2), Wish(stop=("e",))], ids=["plain", "logprobs", "stop"])
def test_the_pieces_of_a_stream_are_the_whole_answer_with_its_scores(server: Server, models: VllmModels, wish: Wish):
    for prompt in server.prompts:
        ears = Ear(), Ear(streams=True)
        whole, streamed = (models.generate(BASE, [Wanted(prompt, 24, wish, ear)], 24)[0].result(WAIT) for ear in ears)
        assert "".join(ears[1].texts) == streamed.text
        assert tuple(ears[1].scores) == (streamed.scores or ())
        assert ears[0].texts == []
        if server.least == 1.0:
            assert streamed == whole


def test_a_loaded_adapter_is_listed_with_path_and_parent_and_is_gone_when_it_was_unloaded(
    server: Server, models: VllmModels, replica: Replica
):
    models.load("contract-v1", server.adapters[0]).result(WAIT)
    listed = replica.models()
    assert listed["contract-v1"].parent == server.upstream.base
    assert (listed["contract-v1"].root or "").startswith(server.upstream.seen_as)
    assert listed[server.upstream.base].parent is None
    assert listed[server.upstream.base].max_model_len
    replica.unload("contract-v1", seconds=60)
    replica.unload("contract-v1", seconds=60)
    assert "contract-v1" not in replica.models()
    with pytest.raises(ModelMissing):
        asked_for(replica, "contract-v1", server.prompts[0])


def test_the_same_name_is_not_loaded_twice_and_a_path_without_an_adapter_is_not_loaded(
    server: Server, models: VllmModels, replica: Replica
):
    models.load("contract-v1", server.adapters[0]).result(WAIT)
    other = publish(server.adapters[1], name="contract-v1", at=server.upstream.adapters_at)
    with pytest.raises(AdapterRefused, match="already"):
        replica.load("contract-v1", f"{server.upstream.seen_as}/{other}", seconds=60)
    with pytest.raises(AdapterRefused):
        replica.load("contract-v2", f"{server.upstream.seen_as}/nothing-is-here", seconds=60)
    with pytest.raises(NotLoaded, match="never used twice"):
        models.load("contract-v1", server.adapters[1]).result(WAIT)


def test_a_server_asks_for_its_key_where_it_has_one(server: Server, replica: Replica):
    if server.upstream.api_key_variable is None:
        assert server.upstream.base in replica.models()
        return
    stranger = Replicas(server.upstream, key="wrong")
    with pytest.raises(KeyRefused):
        stranger.all()[0].models()
    stranger.close()
