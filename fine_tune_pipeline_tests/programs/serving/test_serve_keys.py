"""Keys with a name: shown once, kept as hashes, taken back at once, each with its own rate, and its name in the log."""

import asyncio
import json
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from fine_tune_pipeline.programs.serving import api_keys
from fine_tune_pipeline.programs.serving.api_keys import ApiKey, BadKeyFile, BadName, KeyFile, NameTaken, UnknownKey
from fine_tune_pipeline.programs.serving.http_gate import Keys
from fine_tune_pipeline.programs.serving.http_routes import make_app
from fine_tune_pipeline.programs.serving.rate_limits import RateLimits
from fine_tune_pipeline_tests.programs.serving.serving_stand import ADMIN_KEY, USER_KEY, Stand, ask, stand
from fine_tune_pipeline_tests.waiting import wait_until

CHAT = "/v1/chat/completions"
OWN = Keys(user=USER_KEY, admin=ADMIN_KEY)


def talker(it: Stand) -> Callable[..., httpx.Response]:
    """One app for all requests, as a server has."""
    app = make_app(it.service, OWN.with_named(it.folder))

    def talk(key: str, path: str = CHAT, method: str = "POST", **more: object) -> httpx.Response:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://endpoint", headers={"Authorization": f"Bearer {key}"}) as it:
                return await it.request(method, path, **({"json": ask()} if method == "POST" and not more else {}), **more)

        return asyncio.run(run())

    return talk


def test_a_key_is_kept_as_a_salted_hash_that_only_the_owner_can_read(tmp_path: Path):
    file = KeyFile(tmp_path / "state")
    one, two = file.add("shop"), file.add("bank", per_minute=5)
    path = tmp_path / "state" / api_keys.FILE
    text = path.read_text(encoding="utf-8")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (one in text, two in text, one == two) == (False, False, False)
    assert len({(key.salt, key.sha256) for key in file.listed()}) == 2
    assert [(key.name, key.per_minute) for key in KeyFile(tmp_path / "state").listed()] == [("shop", None), ("bank", 5)]


def test_a_name_is_given_once_and_an_unknown_one_cannot_be_removed(tmp_path: Path):
    file = KeyFile(tmp_path)
    file.add("shop")
    with pytest.raises(NameTaken, match="shop"):
        file.add("shop")
    with pytest.raises(UnknownKey, match="want one of shop"):
        file.remove("bank")
    for name in ("", " a", "a\nb", "-a", "a" * 65):
        with pytest.raises(BadName):
            file.add(name)
    assert [key.name for key in file.listed()] == ["shop"]


def test_keys_that_are_added_at_once_are_all_there(tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: KeyFile(tmp_path).add(f"client-{number}"), range(24)))
    holders = [KeyFile(tmp_path).holder(key) for key in made]
    assert [None if key is None else key.name for key in holders] == [f"client-{number}" for number in range(24)]


def test_a_running_server_takes_a_new_key_and_refuses_a_removed_one_at_once(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        talk, file = talker(it), KeyFile(it.folder)
        assert talk("ftp-of-nobody").status_code == 401
        key = file.add("shop")
        assert talk(key).status_code == 200
        assert talk(key, path="/admin/sync").status_code == 403
        file.remove("shop")
        refused = talk(key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert talk(USER_KEY).status_code == 200


def test_the_log_names_the_key_and_holds_it_nowhere(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        talk, key = talker(it), KeyFile(it.folder).add("shop")
        for each in (key, USER_KEY, key):
            assert talk(each).status_code == 200
        wait_until(lambda: len(it.log) == 3)
        assert [logged.request.key_name for logged in it.log.window(3)] == ["shop", None, "shop"]
        assert key.encode() not in b"".join(path.read_bytes() for path in it.folder.iterdir() if path.is_file())


def test_a_key_that_asks_too_often_gets_429_and_when_to_come_again_and_others_do_not(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        talk, file = talker(it), KeyFile(it.folder)
        slow, free = file.add("slow", per_minute=2), file.add("free")
        assert [talk(slow).status_code for _ in range(3)] == [200, 200, 429]
        refused = talk(slow)
        error = refused.json()["error"]
        assert (error["type"], error["code"], set(error)) == (
            "rate_limit_error",
            "rate_limit_exceeded",
            {"message", "type", "param", "code"},
        )
        assert 1 <= int(refused.headers["Retry-After"]) <= 30
        assert "slow may ask 2 times a minute" in error["message"]
        assert slow not in refused.text
        assert talk(slow, path="/v1/models", method="GET").status_code == 200
        assert {talk(free).status_code for _ in range(5)} == {talk(USER_KEY).status_code} == {200}


def test_a_key_file_that_was_broken_lets_in_nobody_but_the_endpoints_own_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        talk, file = talker(it), KeyFile(it.folder)
        key = file.add("shop")
        assert talk(key).status_code == 200
        (it.folder / api_keys.FILE).write_text("{", encoding="utf-8")
        assert (talk(key).status_code, talk(USER_KEY).status_code) == (401, 200)
        assert "keys.json" in capsys.readouterr().err
        with pytest.raises(BadKeyFile, match=r"keys\.json"):
            file.add("bank")


def key_of(per_minute: int | None, name: str = "shop") -> ApiKey:
    return ApiKey.of("ftp-key", name=name, per_minute=per_minute)


@pytest.mark.parametrize("per_minute", [1, 7, 60, 600])
def test_over_any_time_a_key_gets_its_rate_and_one_full_bucket_at_most(per_minute: int):
    now = 0.0
    limits, key = RateLimits(clock=lambda: now), key_of(per_minute)
    taken: list[float] = []
    for step in range(6000):
        now = step * 0.05
        if limits.wait_seconds(key) == 0:
            taken.append(now)
    whole = 300 * per_minute / 60
    assert whole - 1 <= len(taken) <= whole + per_minute
    assert len([moment for moment in taken if moment >= 240]) <= per_minute + 1


def test_whoever_comes_again_when_told_is_served(tmp_path: Path):
    now = 0.0
    limits, key = RateLimits(clock=lambda: now), key_of(3)
    assert [limits.wait_seconds(key) for _ in range(3)] == [0, 0, 0]
    wait = limits.wait_seconds(key)
    now += wait - 1.5
    assert limits.wait_seconds(key) > 0
    now += 1.5
    assert (wait, limits.wait_seconds(key)) == (20, 0)


def test_a_key_without_a_rate_never_waits_and_keys_have_buckets_of_their_own():
    limits, free, slow, other = RateLimits(clock=lambda: 0.0), key_of(None), key_of(1, "slow"), key_of(1, "other")
    assert {limits.wait_seconds(free) for _ in range(1000)} == {0}
    assert [limits.wait_seconds(slow), limits.wait_seconds(slow), limits.wait_seconds(other)] == [0, 60, 0]


def test_the_log_names_the_key_of_an_answer_that_comes_in_pieces(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        talk, key = talker(it), KeyFile(it.folder).add("shop")
        whole = talk(key, content=json.dumps(ask(stream=True)), headers={"Content-Type": "application/json"})
        assert "data: [DONE]" in whole.text
        wait_until(lambda: len(it.log) == 1)
        assert it.log.window(1)[0].request.key_name == "shop"
