"""What fails beside the model (disk, registry, files, clients): the endpoint goes on answering, and says what is wrong."""

import asyncio
import hmac
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from jinja2.exceptions import TemplateError

from fine_tune_pipeline.artifacts.traffic import Feedback, TrafficLog
from fine_tune_pipeline.programs.serving import registry_watch
from fine_tune_pipeline.programs.serving.api_keys import KeyFile
from fine_tune_pipeline.programs.serving.contract import ADAPTERS, VERSIONS_FILE, SyncRequest, Table
from fine_tune_pipeline.programs.serving.http_gate import Keys
from fine_tune_pipeline.programs.serving.registry_watch import RegistryWatch
from fine_tune_pipeline.programs.serving.versions import BrokenTable, NoChampion
from fine_tune_pipeline_tests.programs.serving.serving_stand import ADMIN_KEY, USER_KEY, WAIT, Stand, ask, fake_adapter, offered, stand
from fine_tune_pipeline_tests.programs.serving.test_serve_canary import beside
from fine_tune_pipeline_tests.programs.serving.test_serve_http import CHAT, error_of, get, post, with_client
from fine_tune_pipeline_tests.programs.serving.test_serve_traffic_writer import small_disk
from fine_tune_pipeline_tests.waiting import wait_until

JSON = {"Content-Type": "application/json"}


def table_on_disk(state: Path, change: Callable[[Table], Table]) -> None:
    path = state / VERSIONS_FILE
    change(Table.read(path)).write(path)


def said(answer: httpx.Response) -> tuple[str, str]:
    body = answer.json()
    return body["model"], body["choices"][0]["message"]["content"]


def test_on_a_full_disk_a_new_start_serves_what_was_served_and_answers_go_on(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
    with small_disk(0), stand(tmp_path / "state") as again:
        assert said(post(again, CHAT, ask())) == ("bank-v1", "bank-v1 says hello")
        wait_until(lambda: again.service.health().log_dropped_total == 1)
        assert again.service.health().status == "degraded"


def test_on_a_full_disk_a_version_whose_files_are_gone_is_still_left_out(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
    shutil.rmtree(tmp_path / "state" / ADAPTERS)
    with small_disk(0), stand(tmp_path / "state") as again:
        with pytest.raises(NoChampion, match=r"want \*\.safetensors"):
            again.versions.target(None)
        assert again.service.health().status == "failed"


def test_while_the_disk_is_full_the_registry_is_asked_on_and_followed_when_there_is_room(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        beside(it)
        watch = RegistryWatch(lambda: {"champion": 2, "previous": 1}, it.versions, every_seconds=0.02)
        it.service.registry = watch
        with small_disk(0):
            watch.start()
            wait_until(lambda: it.service.health().status == "degraded")
            assert "aliases of the model registry cannot be kept" in it.service.health().problems[0]
            assert it.versions.target(None).name == "bank-v1"
        wait_until(lambda: it.versions.target(None).name == "bank-v2")
        wait_until(lambda: it.service.health().status == "ready")
        watch.stop()


def test_a_registry_that_never_finishes_answering_is_told_and_the_gauge_shows_since_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entered, over = threading.Event(), threading.Event()

    def endless() -> dict[Any, int]:
        entered.set()
        assert over.wait(WAIT)
        return {}

    with stand(tmp_path / "state") as it:
        it.promote(1)
        monkeypatch.setattr(registry_watch, "STALE_SECONDS", 0.0)
        watch = RegistryWatch(endless, it.versions, every_seconds=0.01)
        it.service.registry = watch
        watch.start()
        assert entered.wait(WAIT)
        wait_until(lambda: it.service.health().status == "degraded")
        assert "has not finished answering" in it.service.health().problems[0]
        gauge = next(line for line in get(it, "/metrics").text.splitlines() if line.startswith("ftp_registry_stale_seconds "))
        assert float(gauge.split()[1]) > 0.01
        watch.stop()
        over.set()


def test_a_version_that_was_being_loaded_when_the_server_ended_is_left_out_so_that_it_cannot_end_it_again(tmp_path: Path):
    def being_loaded(table: Table) -> Table:
        first, second = table.versions
        return table.model_copy(update={"versions": (first, second.model_copy(update={"state": "loading"}))})

    with stand(tmp_path / "state") as it:
        beside(it)
        offer = offered(2, tmp_path / "state" / "beside-2")
    table_on_disk(tmp_path / "state", being_loaded)
    with stand(tmp_path / "state") as again:
        assert list(again.models.loaded) == ["bank-v1"]
        found = again.versions.table.version(2)
        assert found is not None
        assert (found.state, "ended while it was being loaded" in found.reason) == ("failed", True)
        assert said(post(again, CHAT, ask(user="anybody"))) == ("bank-v1", "bank-v1 says hello")
        again.versions.sync(SyncRequest(versions=(offer,), aliases={"champion": 2}))
        assert again.versions.target(None).name == "bank-v2"


def test_a_copy_whose_settings_were_changed_is_not_served(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        folder = it.models.loaded["bank-v1"]
    (folder / "adapter_config.json").write_text('{"lora_alpha": 64}', encoding="utf-8")
    with stand(tmp_path / "state") as again, pytest.raises(NoChampion, match=r"adapter_config\.json"):
        again.versions.target(None)


def test_a_table_of_an_earlier_version_that_knows_no_settings_is_served(tmp_path: Path):
    def without(table: Table) -> Table:
        [version] = table.versions
        assert version.settings_sha256
        return table.model_copy(update={"versions": (version.model_copy(update={"settings_sha256": None}),)})

    with stand(tmp_path / "state") as it:
        it.promote(1)
    table_on_disk(tmp_path / "state", without)
    assert "settings" not in (tmp_path / "state" / VERSIONS_FILE).read_text(encoding="utf-8")
    with stand(tmp_path / "state") as again:
        assert again.versions.target(None).name == "bank-v1"


def test_a_damaged_table_is_one_clear_error_and_stays_as_it_is(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
    path = tmp_path / "state" / VERSIONS_FILE
    path.write_text(path.read_text(encoding="utf-8")[:40], encoding="utf-8")
    with pytest.raises(BrokenTable, match=r"versions\.json: .*move the file away and materialize"), stand(tmp_path / "state"):
        pass
    assert len(path.read_text(encoding="utf-8")) == 40


def test_a_promotion_while_another_version_loads_waits_the_last_one_counts_and_no_request_is_lost_or_mixed(tmp_path: Path):
    with stand(tmp_path / "state") as it, ThreadPoolExecutor(12) as pool:
        it.promote(1)
        second, third = (offered(number, fake_adapter(tmp_path / f"new-{number}", content=str(number))) for number in (2, 3))
        it.versions.sync(SyncRequest(versions=(second,), aliases={"challenger": 2}))
        loading, go_on, load = threading.Event(), threading.Event(), it.models.load

        def held(name: str, folder: Path) -> None:
            loading.set()
            assert go_on.wait(WAIT)
            load(name, folder)

        it.models.load = held  # type: ignore[method-assign]
        first = pool.submit(it.versions.sync, SyncRequest(versions=(third,), aliases={"champion": 3, "previous": 1}))
        assert loading.wait(WAIT)
        asked = [pool.submit(post, it, CHAT, ask(str(number))) for number in range(8)]
        last = pool.submit(it.versions.sync, SyncRequest(aliases={"champion": 2, "previous": 1}))
        wait_until(lambda: it.thread.waiting == 8)
        assert [first.done(), last.done()] == [False, False]
        go_on.set()
        assert (first.result().aliases["champion"], last.result().aliases["champion"]) == (3, 2)
        assert [said(answer.result()) for answer in asked] == [("bank-v1", f"bank-v1 says {number}") for number in range(8)]
        assert said(post(it, CHAT, ask())) == ("bank-v2", "bank-v2 says hello")


def test_whatever_key_is_given_the_same_comparisons_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = KeyFile(tmp_path)
    named = [file.add(name) for name in ("shop", "bank")]
    keys, seen = Keys(user=USER_KEY, admin=ADMIN_KEY).with_named(tmp_path), []
    compare = hmac.compare_digest

    def noted(one: Any, other: Any) -> bool:
        seen.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)

    def comparisons(given: str) -> tuple[tuple[int, int], ...]:
        seen.clear()
        keys.caller(given)
        return tuple(seen)

    tried = [USER_KEY, ADMIN_KEY, *named, "", "x", USER_KEY[:-1], "k" * 10_000]
    [made] = {comparisons(given) for given in tried}
    assert made == ((32, 32), (32, 32), (64, 64), (64, 64))


def test_a_key_that_is_not_known_stands_in_no_answer_no_output_and_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    wrong = "a-key-that-somebody-mistyped"
    with stand(tmp_path / "state") as it:
        it.promote(1)
        refused = [post(it, CHAT, ask(), key=wrong), get(it, "/v1/models", key=wrong), post(it, "/admin/sync", {}, key=wrong)]
        assert [answer.status_code for answer in refused] == [401, 401, 401]
        assert post(it, CHAT, ask()).status_code == 200
        wait_until(lambda: len(it.log) == 1)
        kept = b"".join(path.read_bytes() for path in it.folder.rglob("*") if path.is_file())
    told = capfd.readouterr()
    for key in (wrong, USER_KEY, ADMIN_KEY):
        assert key not in "".join(answer.text for answer in refused) + told.out + told.err
        assert key.encode() not in kept


@pytest.mark.parametrize(
    ("content", "statuses"),
    [
        (b"[" * 100_000, {400}),
        (b'{"messages": ' * 5_000, {400}),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', {422}),
        (b'{"messages": [{"role": "user", "content": "a"}], "tools": [{"\\udfff": 1}]}', {422}),
        (b'{"messages": [{"role": "user", "content": "a"}], "tools": [{"a": ' + b"[" * 400 + b"]" * 400 + b"}]}", {422}),
        (b'{"messages": [{"role": "user", "content": "a"}], "model": "\\ud800"}', {422}),
        (b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', {400, 422}),
        (b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 1' + b"0" * 400 + b"}", {400, 422}),
        (b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 1' + b"0" * 5000 + b"}", {400, 422}),
        (b'{"messages": null}', {422}),
        (b"null", {422}),
        (b"[]", {422}),
        (b'"hello"', {422}),
        ('{"messages": [{"role": "user", "content": "ä"}]}'.encode("latin-1"), {400}),
        (b"\x00\x01\x02", {400}),
    ],
)
def test_a_body_that_is_odd_is_refused_and_disturbs_nobody(tmp_path: Path, content: bytes, statuses: set[int]):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        response = with_client(it, lambda client: client.post(CHAT, content=content, headers=JSON))
        assert response.status_code in statuses, response.text
        error_of(response, response.status_code)
        assert post(it, CHAT, ask()).status_code == 200


def test_what_the_chat_template_does_not_take_is_the_clients_mistake(tmp_path: Path):
    def refusing(asked: object, system: str) -> list[int]:
        raise TemplateError("Conversation roles must alternate user/assistant/user/assistant/...")

    with stand(tmp_path / "state") as it:
        it.promote(1)
        it.service._encode = refusing
        assert "roles must alternate" in error_of(post(it, CHAT, ask()), 400)["message"]


def test_people_who_wait_for_a_slow_log_keep_nobody_from_rolling_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    over, keep = threading.Event(), TrafficLog.feedback

    def slow(log: TrafficLog, feedback: Feedback) -> None:
        assert over.wait(WAIT)
        keep(log, feedback)

    async def talk(it: Stand, request_id: str) -> tuple[list[int], int]:
        async with it.client() as users, it.client(ADMIN_KEY) as admin:
            thumbs = [
                asyncio.create_task(users.post("/v1/feedback", json={"request_id": request_id, "thumb": "up", "source": str(number)}))
                for number in range(60)
            ]
            await asyncio.wait(thumbs, timeout=0.2)
            rolled_back = await admin.post("/admin/sync", json={"aliases": {"champion": 2}})
            over.set()
            return [(await thumb).status_code for thumb in thumbs], rolled_back.status_code

    with stand(tmp_path / "state") as it:
        beside(it)
        request_id = post(it, CHAT, ask(user="1")).json()["id"]
        wait_until(lambda: len(it.log) == 1)
        monkeypatch.setattr(TrafficLog, "feedback", slow)
        statuses, rolled_back = asyncio.run(asyncio.wait_for(talk(it, request_id), WAIT))
        assert rolled_back == 200
        assert set(statuses) == {200}
        assert json.loads((it.folder / VERSIONS_FILE).read_text(encoding="utf-8"))["aliases"] == {"champion": 2}
