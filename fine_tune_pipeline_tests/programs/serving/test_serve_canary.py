"""A canary at the endpoint, and a table that follows the model registry: who gets whom, and what never happens."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fine_tune_pipeline.programs.serving.contract import Canary, SyncRequest
from fine_tune_pipeline.programs.serving.versions import SyncRefused
from fine_tune_pipeline_tests.programs.serving.serving_stand import ADMIN_KEY, Stand, ask, fake_adapter, offered, stand
from fine_tune_pipeline_tests.programs.serving.test_serve_http import CHAT, post
from fine_tune_pipeline_tests.waiting import wait_until


def beside(it: Stand, version: int = 2, *, share: float = 0.25) -> None:
    """Version 1 is champion, another is its canary."""
    if it.versions.table.champion is None:
        it.promote(1)
    adapter = fake_adapter(it.folder / f"beside-{version}", content=f"weights {version}")
    wished = SyncRequest(versions=(offered(version, adapter),), canary=Canary(version=version, share=share))
    it.versions.sync(wished)


def test_the_same_user_always_meets_the_same_version_and_the_share_is_kept(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        beside(it)
        found = {user: it.versions.target(None, user=user) for user in map(str, range(2000))}
        assert all(it.versions.target("bank", user=user) == target for user, target in found.items())
        arms = Counter((target.arm, target.name) for target in found.values())
        # Binomial, 2,000 at 0.25: four standard deviations are 0.039.
        assert arms.keys() == {("champion", "bank-v1"), ("canary", "bank-v2")}
        assert abs(arms["canary", "bank-v2"] / 2000 - 0.25) < 0.039


def test_another_canary_takes_other_users():
    users = [str(number) for number in range(4000)]
    first, second = (Canary(version=version, share=0.5) for version in (2, 3))
    both = sum(first.takes(user) and second.takes(user) for user in users)
    assert abs(both / 4000 - 0.25) < 0.03


def test_who_names_a_version_and_a_probe_of_ours_never_meet_the_canary(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        beside(it, share=0.5)
        users = [str(number) for number in range(50)]
        assert {it.versions.target("bank-v1", user=user).arm for user in users} == {"champion"}
        assert {it.versions.target("bank-v2", user=user).arm for user in users} == {"other"}
        answers = [post(it, CHAT, ask(user=user), key=ADMIN_KEY).json()["model"] for user in users[:20]]
        assert set(answers) == {"bank-v1"}


def test_the_log_knows_the_arms_and_requests_without_a_user_are_split_too(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        beside(it, share=0.5)
        answers = [post(it, CHAT, ask(str(number))).json() for number in range(40)]
        wait_until(lambda: len(it.log) == 40)
        by_arm = {arm: {row.request.id for row in it.log.window(40, arm=arm)} for arm in ("champion", "canary")}
        assert by_arm["champion"] == {answer["id"] for answer in answers if answer["model"] == "bank-v1"}
        assert by_arm["canary"] == {answer["id"] for answer in answers if answer["model"] == "bank-v2"}
        assert min(map(len, by_arm.values())) > 5


@pytest.mark.parametrize("change", [{"aliases": {"champion": 2, "previous": 1}}, {"end_canary": True}])
def test_a_canary_ends_when_it_is_told_to_or_the_champion_changes(tmp_path: Path, change: dict[str, object]):
    with stand(tmp_path / "state") as it:
        beside(it, share=0.5)
        it.versions.sync(SyncRequest.model_validate({"versions": [], **change}))
        assert it.versions.table.canary is None
        assert {it.versions.target(None, user=str(number)).arm for number in range(50)} == {"champion"}


def test_a_canary_goes_on_after_a_restart_and_through_a_sync_of_something_else(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        beside(it)
        it.versions.sync(SyncRequest())
        assert list(it.models.loaded) == ["bank-v1", "bank-v2"]
    with stand(tmp_path / "state") as again:
        assert again.versions.table.canary == Canary(version=2, share=0.25)
        assert list(again.models.loaded) == ["bank-v1", "bank-v2"]


def test_a_canary_that_is_over_is_freed_one_sync_later_since_somebody_may_be_on_the_way_to_it(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        beside(it)
        on_the_way = next(target for number in range(99) if (target := it.versions.target(None, user=str(number))).arm == "canary")
        it.versions.sync(SyncRequest(end_canary=True))
        assert it.thread.submit(on_the_way.name, [104, 105], max_new_tokens=4).result().text == "bank-v2 says hi"
        it.versions.sync(SyncRequest())
        assert list(it.models.loaded) == ["bank-v1"]


@pytest.mark.parametrize(("version", "says"), [(1, "is the champion already"), (7, "version 7 is not loaded")])
def test_a_canary_that_cannot_be_one_is_refused_and_nothing_changes(tmp_path: Path, version: int, says: str):
    with stand(tmp_path / "state") as it:
        beside(it)
        before = it.versions.table
        with pytest.raises(SyncRefused, match=says):
            it.versions.sync(SyncRequest(canary=Canary(version=version, share=0.1), aliases={"previous": 2}))
        assert it.versions.table == before


def test_a_canary_whose_files_are_damaged_is_left_out_and_the_champion_answers(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        beside(it, share=0.5)
        folder = it.models.loaded["bank-v2"]
    (folder / "adapter_model.safetensors").write_text("damaged", encoding="utf-8")
    with stand(tmp_path / "state") as again:
        assert {again.versions.target(None, user=str(number)).name for number in range(50)} == {"bank-v1"}
        assert again.service.health().status == "ready"


def test_the_table_follows_the_registry_and_frees_nothing(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        beside(it)
        assert it.versions.follow({"champion": 2, "previous": 1}, asked_at=time.monotonic()) is None
        assert it.versions.table.aliases == {"champion": 2, "previous": 1}
        assert it.versions.table.canary is None
        assert it.versions.follow({"champion": 1, "challenger": 2}, asked_at=time.monotonic()) is None
        assert it.versions.target(None).name == "bank-v1"
        assert list(it.models.loaded) == ["bank-v1", "bank-v2"]


@pytest.mark.parametrize(
    ("aliases", "says"),
    [
        ({"champion": 9, "previous": 1}, "names version 9 champion, which is not loaded here; version 1 stays"),
        ({}, "names no champion; version 1 stays"),
    ],
)
def test_a_champion_that_is_not_here_or_not_named_leaves_the_last_one(tmp_path: Path, aliases: dict[str, int], says: str):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        said = it.versions.follow(aliases, asked_at=time.monotonic())  # type: ignore[arg-type]
        assert said is not None
        assert says in said
        assert it.versions.target(None).name == "bank-v1"


def test_what_the_registry_said_before_a_sync_no_longer_counts_after_it(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        beside(it)
        asked_at = time.monotonic()
        it.versions.sync(SyncRequest(aliases={"champion": 2, "previous": 1}))
        assert it.versions.follow({"champion": 1}, asked_at=asked_at) is None
        assert it.versions.target(None).name == "bank-v2"


def test_syncs_at_once_end_in_the_state_of_one_of_them(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        wishes = []
        for version in (2, 3, 4, 5):
            adapter = fake_adapter(tmp_path / f"at-once-{version}", content=f"weights {version}")
            wishes.append(SyncRequest(versions=(offered(version, adapter),), aliases={"champion": version, "previous": 1}))
        with ThreadPoolExecutor(4) as pool:
            tables = list(pool.map(it.versions.sync, wishes))
        assert [table.aliases["champion"] for table in tables] == [2, 3, 4, 5]
        last = it.versions.table
        assert last in tables
        assert list(it.models.loaded) == ["bank-v1", f"bank-v{last.aliases['champion']}"]
        assert [version.version for version in last.versions] == [1, last.aliases["champion"]]
