"""A release from its first user to its last, over real HTTP, with MLflow's registry: who is champion, who says so, and why."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fine_tune_pipeline.guide.deployment.registry import ModelRegistry, RegistryDown, registry_answers
from fine_tune_pipeline.guide.deployment.release.steps import (
    NoPrevious,
    NothingWaits,
    NotRolledBack,
    allow,
    approve,
    look,
    promote,
    roll_back,
)
from fine_tune_pipeline.programs.serving.contract import Canary, SyncRequest, Table
from fine_tune_pipeline.resources.endpoint_client import EndpointClient, Unreachable
from fine_tune_pipeline.spec.release import CanarySpec
from fine_tune_pipeline_tests.guide.deployment.release.release_world import World, world

# MLflow's tables ask SQLAlchemy for a strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning")


@pytest.fixture
def it(tmp_path: Path, empty_registry: Path) -> Iterator[World]:
    """Version 1 is champion."""
    with world(tmp_path, f"sqlite:///{shutil.copy(empty_registry, tmp_path)}") as made:
        made.seconds = 1000.0
        first = made.begin(1, canary=CanarySpec())
        assert (first.does, first.release and first.release.state) == ("promote", "kept")
        yield made


def states(it: World) -> list[tuple[object, object]]:
    return [(event["version"], event["state"]) for event in it.desk.book.history()]


def champions(it: World, count: int = 4) -> set[str]:
    return set(it.ask(count, user=f"at {it.seconds}"))


def test_without_a_canary_a_version_is_promoted_at_once_and_watched(it: World):
    step = it.begin(2, canary=None)
    assert (step.does, step.reason) == ("promote", "bank-v2 is champion: all checks have passed")
    assert it.registry.aliases() == {"challenger": 2, "champion": 2, "previous": 1}
    assert it.client.health().table.aliases == {"challenger": 2, "champion": 2, "previous": 1}
    assert champions(it) == {"bank-v2"}
    assert look(it.desk).reason.startswith("bank-v2: watch: 4 of 200 requests")


def test_a_canary_that_does_well_is_promoted_and_then_kept(it: World):
    assert it.begin(2, canary=CanarySpec(share=0.5, answers=20)).does == "canary"
    assert it.registry.aliases() == {"challenger": 2, "champion": 1}
    arms = Counter(it.ask(30))
    assert arms.keys() == {"bank-v1", "bank-v2"}
    assert it.live is not None
    assert it.live.version == 1
    waiting = look(it.desk)
    assert (waiting.does, waiting.reason) == ("wait", f"bank-v2: canary: {arms['bank-v2']} of 20 requests, 0 of 60 minutes")
    it.ask(30, user="another")
    done = it.kept(look(it.desk))
    assert done.does == "promote"
    assert it.registry.aliases() == {"challenger": 2, "champion": 2, "previous": 1}
    assert champions(it) == {"bank-v2"}
    assert it.live.version == 2
    it.fill(200, arm="champion", version=2)
    assert it.kept(look(it.desk)).does == "keep"
    assert states(it) == [(1, "kept"), (2, "canary"), (2, "watch"), (2, "kept")]


def test_a_canary_that_is_worse_is_rolled_back_by_itself_with_its_reason(it: World):
    it.begin(2, canary=CanarySpec(share=0.5))
    it.fill(200, arm="champion", version=1, bad=4, valid=False)
    it.fill(8, arm="canary", version=2, bad=8, valid=False)
    step = it.kept(look(it.desk))
    assert step.does == "roll_back"
    assert "invalid_answers: 8 of 8 against 4 of 200" in step.reason
    assert it.client.health().table.canary is None
    assert champions(it, 20) == {"bank-v1"}
    assert it.registry.aliases()["champion"] == 1
    assert it.live is not None
    assert it.live.version == 1
    check = next(check for check in it.store.current("bank", "endpoint", passed=False).manifest.built.checks if check.name == "canary")
    assert (check.passed, check.description) == (False, step.reason)


def test_a_promoted_version_that_is_worse_than_the_one_before_goes_back_by_itself(it: World):
    it.fill(150, arm="champion", version=1, bad=3, status=500)
    it.seconds = 2000.0
    it.begin(2, canary=None)
    it.fill(30, arm="champion", version=2, bad=12, status=500)
    step = it.kept(look(it.desk))
    assert (step.does, step.everybody_had) == ("roll_back", True)
    assert "errors: 12 of 30 against 3 of 150" in step.reason
    assert it.registry.aliases() == {"challenger": 2, "champion": 1}
    assert champions(it) == {"bank-v1"}
    assert set(it.stand.models.loaded) == {"bank-v1", "bank-v2"}
    assert it.live is not None
    assert it.live.version == 1


def test_rolling_back_by_hand_is_written_down_and_only_possible_once(it: World):
    it.begin(2, canary=None)
    step = it.kept(roll_back(it.desk, by="ann", reason="rude answers"))
    assert (step.does, step.version) == ("roll_back", 2)
    assert champions(it) == {"bank-v1"}
    assert it.registry.aliases() == {"challenger": 2, "champion": 1}
    last = it.desk.book.history()[-1]
    assert (last["version"], last["state"], last["by"], last["reason"]) == (2, "rolled_back", "ann", "rude answers")
    with pytest.raises(NoPrevious, match="no previous version"):
        roll_back(it.desk, by="ann", reason="again")
    assert champions(it) == {"bank-v1"}


def test_rolling_back_ends_a_canary_and_leaves_the_champion(it: World):
    it.begin(2, canary=CanarySpec(share=0.5))
    assert roll_back(it.desk, by="ann", reason="not today").does == "roll_back"
    assert champions(it, 20) == {"bank-v1"}
    assert look(it.desk).reason == "bank-v2 is rolled back: not today"


def test_a_version_that_was_rolled_back_is_not_tried_again_until_somebody_allows_it(it: World):
    it.begin(2, canary=None)
    roll_back(it.desk, by="ann", reason="rude answers")
    refused = it.begin(2, canary=None)
    assert refused.does == "refused"
    assert "by ann: rude answers; train another version, or say `fine-tune-pipeline release bank --again`" in refused.reason
    assert champions(it) == {"bank-v1"}
    assert allow(it.desk, by="bob", reason="it was the prompt") == 2
    assert it.begin(2, canary=None).does == "promote"
    assert champions(it) == {"bank-v2"}
    with pytest.raises(NotRolledBack):
        allow(it.desk, by="bob", reason="")


def test_a_version_waits_for_a_person_and_goes_on_as_the_use_case_says(it: World):
    with pytest.raises(NothingWaits, match="bank-v1 is in state kept"):
        approve(it.desk, by="ann", note="")
    step = it.begin(2, approval=True, canary=CanarySpec(share=0.5))
    assert (step.does, step.reason) == ("approval", "bank-v2 waits for a person: fine-tune-pipeline approve bank --by NAME")
    assert champions(it, 20) == {"bank-v1"}
    assert look(it.desk).does == "approval"
    assert it.begin(2, approval=True, canary=CanarySpec(share=0.5)).does == "approval"
    assert it.kept(approve(it.desk, by="ann", note="read 20 answers")).does == "canary"
    assert champions(it, 20) == {"bank-v1", "bank-v2"}
    assert it.begin(2, approval=True, canary=CanarySpec(share=0.5)).reason.startswith("canary goes on")
    assert [(event["state"], event["by"], event["reason"]) for event in it.desk.book.history()[-2:]] == [
        ("approval", "the checks of endpoint", "all checks have passed; a person has to agree"),
        ("canary", "ann", "approved by ann: read 20 answers"),
    ]


def test_a_newer_version_takes_the_place_of_a_canary(it: World):
    it.begin(2, canary=CanarySpec(share=0.5))
    it.begin(3, canary=CanarySpec(share=0.5))
    assert it.client.health().table.canary == Canary(version=3, share=0.5)
    assert champions(it, 20) == {"bank-v1", "bank-v3"}
    assert states(it) == [(1, "kept"), (2, "canary"), (2, "superseded"), (3, "canary")]
    assert set(it.stand.models.loaded) == {"bank-v1", "bank-v2", "bank-v3"}
    it.client.sync(SyncRequest())
    assert set(it.stand.models.loaded) == {"bank-v1", "bank-v3"}


def test_the_same_version_again_changes_nothing(it: World):
    it.begin(2, canary=None)
    before = (it.registry.aliases(), it.client.health().table, states(it))
    again = it.begin(2, canary=None)
    assert (again.does, again.everybody, again.reason) == ("nothing", True, "bank-v2 is champion already")
    assert (it.registry.aliases(), it.client.health().table, states(it)) == before


def test_a_version_that_was_let_go_is_not_gone_back_to(it: World):
    it.begin(2, canary=None)
    it.client.sync(SyncRequest(drop=("previous",)))
    with pytest.raises(NoPrevious, match="bank-v1 is not there at the endpoint, as after a change of the base model"):
        roll_back(it.desk, by="ann", reason="")
    assert it.registry.aliases()["champion"] == 2


def test_while_the_endpoint_is_away_a_version_can_be_taken_back_and_the_next_start_serves_the_one_before(it: World):
    it.begin(2, canary=None)
    it.endpoint.down.set()
    assert it.kept(roll_back(it.desk, by="ann", reason="at night")).does == "roll_back"
    table = json.loads((it.stand.folder / "versions.json").read_text(encoding="utf-8"))
    assert table["aliases"] == {"champion": 1, "challenger": 2}
    assert it.registry.aliases() == {"challenger": 2, "champion": 1}


def test_with_the_registry_away_nothing_is_decided_and_the_last_table_is_served(it: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    it.begin(2, canary=None)
    it.registry = ModelRegistry(uri="http://ann:secret@127.0.0.1:9", use_case="bank")
    with pytest.raises(RegistryDown, match="nothing was changed") as down, registry_answers(it.registry.uri):
        roll_back(it.desk, by="ann", reason="")
    assert "secret@" not in str(down.value)
    assert champions(it) == {"bank-v2"}


def test_under_32_clients_promotion_canary_and_rollback_lose_nothing_and_every_answer_is_one_versions(it: World):
    hashes = {"bank-v1": it.register(1).adapter_sha256, "bank-v2": it.register(2).adapter_sha256, "bank-v3": it.register(3).adapter_sha256}

    def ask(number: int) -> tuple[int, str, str, str]:
        answer = it.client.answer(f"question {number}", user=str(number % 50))
        return number, answer.model, answer.sha256, answer.text

    with ThreadPoolExecutor(34) as pool:
        asked = [pool.submit(ask, number) for number in range(100)]
        pool.submit(it.begin, 2, canary=CanarySpec(share=0.5)).result()
        asked += [pool.submit(ask, number) for number in range(100, 200)]
        both = [pool.submit(it.begin, 3, canary=None), pool.submit(roll_back, it.desk, by="ann", reason="at the same time")]
        asked += [pool.submit(ask, number) for number in range(200, 300)]
        assert [each.exception() for each in both] == [None, None]
        answers = [each.result() for each in asked]
    assert [answer for answer in answers if answer[3] != f"{answer[1]} says question {answer[0]}" or answer[2] != hashes[answer[1]]] == []
    table = it.client.health().table
    assert table.aliases["champion"] == it.registry.aliases()["champion"]
    assert table.canary is None


def test_a_decision_that_was_broken_off_before_it_was_told_is_told_by_the_next_look(it: World):
    it.begin(2, canary=CanarySpec(share=0.5, answers=20))
    it.fill(20, arm="canary", version=2)
    assert look(it.desk).does == "promote"
    assert it.live is not None
    assert it.live.version == 1
    it.kept(look(it.desk))
    assert it.live.version == 2
    before = it.store.current("bank", "endpoint").fingerprint
    it.kept(look(it.desk))
    assert it.store.current("bank", "endpoint").fingerprint == before


def test_a_promotion_that_the_endpoint_did_not_hear_of_is_made_again_in_full(it: World, monkeypatch: pytest.MonkeyPatch):
    it.begin(2, canary=CanarySpec(share=0.5, answers=20))
    it.fill(20, arm="canary", version=2)
    sync = EndpointClient.sync

    def lost(self: EndpointClient, wished: SyncRequest) -> Table:
        if "champion" in wished.aliases:
            raise Unreachable("the connection broke")
        return sync(self, wished)

    with monkeypatch.context() as broken:
        broken.setattr(EndpointClient, "sync", lost)
        with pytest.raises(Unreachable):
            look(it.desk)
    assert it.registry.aliases() == {"challenger": 2, "champion": 2, "previous": 1}
    step = look(it.desk)
    assert (step.does, step.release and step.release.state) == ("promote", "watch")
    assert it.client.health().table.aliases == {"challenger": 2, "champion": 2, "previous": 1}


def test_an_alias_that_somebody_moves_in_the_registry_ends_what_goes_on(it: World):
    it.begin(2, canary=CanarySpec(share=0.5))
    promote(it.registry, 2)
    assert it.stand.versions.follow(it.registry.aliases(), asked_at=time.monotonic()) is None
    step = it.kept(look(it.desk))
    assert (step.does, step.reason) == ("promote", "bank-v2 is champion: made champion in the model registry")
    assert it.live is not None
    assert it.live.version == 2
    it.registry.point("champion", 1)
    assert it.stand.versions.follow(it.registry.aliases(), asked_at=time.monotonic()) is None
    step = it.kept(look(it.desk))
    assert (step.does, step.reason) == ("roll_back", "version 1 was made champion in the model registry")
    assert it.live.version == 1
    assert champions(it) == {"bank-v1"}
