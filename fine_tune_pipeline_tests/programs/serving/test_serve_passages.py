"""Versions that look passages up: each with its own index, named in the answer and in the log, and never with a damaged one."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from fine_tune_pipeline.programs.passages import CHUNKS, VECTORS
from fine_tune_pipeline.programs.serving.contract import SyncRequest
from fine_tune_pipeline.programs.serving.http_gate import Keys
from fine_tune_pipeline.programs.serving.http_routes import make_app
from fine_tune_pipeline.programs.serving.service import Limits
from fine_tune_pipeline.programs.serving.versions import NoChampion, SyncRefused
from fine_tune_pipeline_tests.programs.serving.serving_stand import USER_KEY, Stand, ask, fake_adapter, offered, stand
from fine_tune_pipeline_tests.small_index import retrieval, small_index
from fine_tune_pipeline_tests.waiting import wait_until

CHAT = "/v1/chat/completions"
OLD = ["a lost card is blocked", "the fee is five", "cash comes in notes"]
NEW = ["a lost card is replaced", "the fee is nine"]


def post(it: Stand, body: dict[str, Any]) -> httpx.Response:
    async def run() -> httpx.Response:
        async with it.client() as client:
            return await client.post(CHAT, json=body)

    return asyncio.run(run())


def text(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def test_the_passages_stand_before_the_question_and_their_sources_in_answer_and_log(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1, index=small_index(tmp_path / "old", OLD))
        response = post(it, ask("what is the fee"))
        assert text(response) == "bank-v1 says [a lost card is blocked] [the fee is five] what is the fee"
        sources = response.json()["choices"][0]["message"]["sources"]
        assert [(source["id"], source["title"]) for source in sources] == [("part-1", "guide.md, part 1"), ("part-0", "guide.md, part 0")]
        assert sources[0]["score"] == pytest.approx(1 / 61 + 1 / 61, abs=1e-6)
        assert sources[0]["score"] > sources[1]["score"] > 0
        wait_until(lambda: len(it.log) == 1)
        row = it.log.window(1)[0].request
        assert (row.prompt_scrubbed, json.loads(row.sources or "")) == ("what is the fee", ["part-0", "part-1"])
        assert row.before_scrubbed is None
        assert row.prompt_characters == len("what is the fee")


def test_a_version_without_an_index_says_nothing_of_sources(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        assert post(it, ask("hello")).json()["choices"][0]["message"] == {"role": "assistant", "content": "bank-v1 says hello"}
        wait_until(lambda: len(it.log) == 1)
        assert it.log.window(1)[0].request.sources is None


def test_the_official_client_reads_answer_and_sources(tmp_path: Path):
    async def asked(it: Stand) -> Any:
        app = make_app(it.service, Keys(user=USER_KEY, admin="admin-key-of-the-tests"))
        transport = httpx.AsyncClient(transport=httpx.ASGITransport(app=app))
        async with openai.AsyncOpenAI(api_key=USER_KEY, base_url="http://endpoint/v1", http_client=transport) as client:
            return await client.chat.completions.create(model="bank", messages=[{"role": "user", "content": "lost card"}])

    with stand(tmp_path / "state") as it:
        it.promote(1, index=small_index(tmp_path / "old", OLD))
        message = asyncio.run(asked(it)).choices[0].message
        assert message.content.endswith("lost card")
        assert message.model_extra["sources"][0]["id"] == "part-0"


def test_another_version_brings_its_own_index_and_the_base_looks_up_as_the_newest_does(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1, index=small_index(tmp_path / "old", OLD))
        adapter, new = fake_adapter(tmp_path / "two", content="two"), small_index(tmp_path / "new", NEW)
        second = offered(2, adapter).model_copy(update={"index": str(new), "retrieval": retrieval(new, passages=1)})
        it.versions.sync(SyncRequest(versions=(second,)))
        assert text(post(it, ask("the fee", model="bank-v1"))).endswith("[the fee is five] the fee")
        assert text(post(it, ask("the fee", model="bank-v2"))) == "bank-v2 says [the fee is nine] the fee"
        assert text(post(it, ask("the fee", model="bank-base"))) == "bank-base says [the fee is nine] the fee"
        assert text(post(it, ask("the fee"))).startswith("bank-v1 says")
        it.versions.sync(SyncRequest(aliases={"champion": 2}))
        assert text(post(it, ask("the fee"))) == "bank-v2 says [the fee is nine] the fee"
        assert [folder.name for folder in (tmp_path / "state/indexes").iterdir()] == [retrieval(new).sha256]


def test_while_versions_are_exchanged_every_answer_is_wholly_of_one_version(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        indexes = [small_index(tmp_path / "old", ["old one", "old two"]), small_index(tmp_path / "new", ["new one", "new two"])]
        it.promote(1, index=indexes[0])
        asked = 120

        async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
            return list(await asyncio.gather(*(client.post(CHAT, json=ask(f"one {number}")) for number in range(asked))))

        with ThreadPoolExecutor(1) as pool:
            exchanged = pool.submit(lambda: [it.promote(version, index=indexes[version % 2 == 0]) for version in range(2, 12)])
            answers = [text(response) for response in with_client(it, talk)]
            exchanged.result()
        assert len(answers) == asked
        for answer in answers:
            version = int(answer.split()[0].removeprefix("bank-v"))
            mine, other = ("new", "old") if version % 2 == 0 else ("old", "new")
            assert f"[{mine} one]" in answer, answer
            assert f"[{other}" not in answer, answer


def with_client(it: Stand, talk: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with it.client() as client:
            return await talk(client)

    return asyncio.run(run())


@pytest.mark.parametrize("fault", ["changed", "missing", "nowhere", "other encoder", "no folder", "broken"])
def test_a_version_with_a_bad_index_is_refused_with_its_reason_and_the_champion_goes_on(tmp_path: Path, fault: str):
    index = small_index(tmp_path / "index", OLD, encoder="another 2" if fault == "other encoder" else "words 1")
    if fault == "broken":
        (index / CHUNKS).write_text('{"id": 1}\n', encoding="utf-8")
    wanted = retrieval(index)
    if fault == "changed":
        (index / CHUNKS).write_text("", encoding="utf-8")
    if fault == "missing":
        (index / VECTORS).unlink()
    if fault == "nowhere":
        shutil.rmtree(index)
    said = {"changed": "SHA-256", "missing": "vectors.npy", "nowhere": "index", "other encoder": "made by the encoder another 2"}
    said |= {"no folder": "without its index", "broken": "no index that can be searched"}
    with stand(tmp_path / "state") as it:
        it.promote(1)
        place = None if fault == "no folder" else str(index)
        bad = offered(2, fake_adapter(tmp_path / "two", content="two")).model_copy(update={"index": place, "retrieval": wanted})
        with pytest.raises(SyncRefused, match=f"bank-v2.*{said[fault]}"):
            it.versions.sync(SyncRequest(versions=(bad,), aliases={"champion": 2}))
        assert text(post(it, ask("hello"))) == "bank-v1 says hello"
        assert list(it.models.loaded) == ["bank-v1"]


def test_a_restart_looks_up_as_before_even_when_the_offered_index_is_gone(tmp_path: Path):
    index = small_index(tmp_path / "old", OLD)
    with stand(tmp_path / "state") as it:
        it.promote(1, index=index)
    shutil.rmtree(index)
    with stand(tmp_path / "state") as again:
        assert "[the fee is five]" in text(post(again, ask("the fee")))


def test_a_restart_with_a_damaged_index_is_not_ready_and_answers_nothing_wrong(tmp_path: Path):
    index = small_index(tmp_path / "old", OLD)
    with stand(tmp_path / "state") as it:
        it.promote(1, index=index)
        [kept] = (tmp_path / "state/indexes").iterdir()
    (kept / CHUNKS).unlink()
    with stand(tmp_path / "state") as again:
        assert again.service.health().status == "failed"
        assert "chunks.jsonl" in again.service.health().problems[0]
        with pytest.raises(NoChampion, match="materialize retrieval_index again"):
            again.versions.target(None)
        assert post(again, ask("the fee")).status_code == 503


def test_a_version_number_is_never_used_for_another_index(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1, index=small_index(tmp_path / "old", OLD))
        new = small_index(tmp_path / "new", NEW)
        again = offered(1, tmp_path / "state/offered-1").model_copy(update={"index": str(new), "retrieval": retrieval(new)})
        with pytest.raises(SyncRefused, match="never used twice"):
            it.versions.sync(SyncRequest(versions=(again,)))


def test_passages_come_on_top_of_what_one_may_ask(tmp_path: Path):
    with stand(tmp_path / "state", limits=Limits(prompt_tokens=20)) as it:
        it.promote(1, index=small_index(tmp_path / "old", OLD))
        assert text(post(it, ask("the fee"))).endswith("the fee")
        assert post(it, ask("the fee " * 100)).status_code == 413
