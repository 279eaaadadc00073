"""Step 8 as Dagster runs it, with a real endpoint on the tiny model: deploy, watch, drift, retrain, refuse."""

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from fine_tune_pipeline.artifacts.examples import Asked, Example, read_rows
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.guide.deployment.assets import endpoint, registered_model, traffic_log
from fine_tune_pipeline.guide.deployment.automation import drift_sensor
from fine_tune_pipeline.guide.deployment.live import read_endpoint
from fine_tune_pipeline.guide.deployment.monitoring.assets import drift_report, production_traffic
from fine_tune_pipeline.guide.deployment.register import read_registered
from fine_tune_pipeline.guide.deployment.registry import ModelRegistry
from fine_tune_pipeline.guide.deployment.release.sensor import release_sensor
from fine_tune_pipeline.guide.technique.index import read_index
from fine_tune_pipeline.programs.embed import DISTRIBUTION, Encoder, embed_texts, load_encoder
from fine_tune_pipeline.programs.models import weights_sha256
from fine_tune_pipeline.programs.requests import EmbedRequest, Request, TrainResult
from fine_tune_pipeline.programs.serving.contract import ADMIN_KEY_VARIABLE, KEY_VARIABLE, VERSIONS_FILE
from fine_tune_pipeline.resources.compute.base import Compute, ResultT
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.resources.endpoint_client import ServedAnswer
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline_tests.guide.deployment.world import (
    FOREIGN,
    SUBJECTS,
    USE_CASE,
    WISHES,
    keep,
    keep_dataset,
    keep_index,
    keep_predictions,
    prompts,
    use_case,
    words,
)
from fine_tune_pipeline_tests.served import evaluated, tiny_adapter
from fine_tune_pipeline_tests.small_index import ROOM as ROOM_TOKENS
from fine_tune_pipeline_tests.small_index import small_index
from fine_tune_pipeline_tests.tiny import tiny_model
from fine_tune_pipeline_tests.waiting import wait_until

# MLflow's tables ask SQLAlchemy for a strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning")

SPEC = use_case(retrain={"drift_windows": 1, "of_windows": 1})
ROOM = [registered_model(SPEC), endpoint(SPEC), production_traffic(SPEC), drift_report(SPEC)]
NEW_TOKENS = 10
"""What the room derives from completions of four characters: two tokens and room for eight."""


HYBRID = SPEC.model_copy(
    update={"dataset": SPEC.dataset.model_copy(update={"format": SPEC.dataset.format.model_copy(update={"context": "retrieved"})})}
)
"""The same of a model that was trained with what is looked up."""

PASSED = dict.fromkeys(("loads", "parity", "shadow", "canary", "watch", "healthy", "latency"), True)
REFUSED = {**PASSED, "parity": False, "shadow": False, "canary": False}

GUIDANCE = [f"{subject.capitalize()} that {wish} is looked at" for subject in SUBJECTS for wish in WISHES[:3]]
MINILM = DISTRIBUTION.replace("==", " ")


@cache
def encoder() -> Encoder:
    return load_encoder()


def minilm(texts: Sequence[str]) -> np.ndarray:
    return embed_texts(texts, encoder())


def looked_up(index: Artifact, texts: Sequence[str]) -> list[Asked]:
    """Questions as the rows of the index have them: found all at once, as training and predictions do."""
    rows = [Example(str(place), text, "") for place, text in enumerate(texts)]
    return [row.asked for row in read_index(index).looked_up(rows, minilm(texts), k=2, room=ROOM_TOKENS)]


class HashingCompute(Compute):
    """A place where the encoder's program runs at once, without weights."""

    cores: int = 1

    def run(self, context: dg.AssetExecutionContext, request: Request, result: type[ResultT]) -> ResultT:
        assert isinstance(request, EmbedRequest)
        embedded = words([row["text"] for row in read_rows(Path(request.texts))])
        path = Path(request.output) / "vectors.npy"
        np.save(path, embedded.vectors)
        (rows, width), sha256 = embedded.vectors.shape, embedded.encoder_sha256
        answer = {"vectors": str(path), "rows": rows, "width": width, "encoder": "words", "encoder_sha256": sha256, "seconds": 0.0}
        return result.model_validate(answer)

    def inventory(self) -> Inventory:
        cpu = Device(kind="cpu", name="CPU", memory_bytes=1 << 30, bfloat16=True)
        return Inventory(place="test", devices=(cpu,), cpu_cores=self.cores, memory_bytes=1 << 30)


@dataclass(frozen=True)
class House:
    """Resources, a base model, and the step before ours: `train` leaves an adapter and its predictions in the store."""

    folder: Path
    store: Store
    resources: dict[str, Any]
    registry: ModelRegistry

    @property
    def serving(self) -> Serving:
        return self.resources["serving"]

    def choose_base(self, *, seed: int = 0) -> Path:
        base = self.folder / f"base-{seed}"
        if not base.exists():
            tiny_model(base, architecture="llama", seed=seed)
        facts = {"id": "tiny", "weights_sha256": weights_sha256(base)}
        keep(self.store, "base_model", mark=str(seed), files={"model": base, "base_model.json": facts})
        return base

    def train(self, seed: int, *, base: Path, wrong: bool = False, index: Artifact | None = None) -> list[str]:
        """An adapter, and what it answers on the test set (or, if `wrong`, predictions of something else); the true answers.

        Args:
            index: of a model that was trained with what is looked up there.
        """
        adapter = tiny_adapter(self.folder / f"adapter-{seed}-{base.name}", base, seed=seed)
        facts = TrainResult(
            adapter="adapter",
            adapter_sha256=weights_sha256(adapter),
            steps=1,
            rows=1,
            tokens=1,
            labelled_tokens=1,
            seconds=1.0,
            tokens_per_second=1.0,
            first_loss=2.0,
            final_loss=1.0,
            validation_losses=((0, 2.0), (1, 1.0)),
            peak_memory_bytes=1,
            trainable_parameters=1,
            curve="curve.jsonl",
        )
        files = {"adapter": adapter, "train.json": json.loads(facts.model_dump_json())}
        keep(self.store, "adapter", mark=f"{seed}-{base.name}", files=files, upstream={} if index is None else {"retrieval_index": index})
        asked = prompts(300, 30) if index is None else looked_up(index, prompts(300, 30))
        found = evaluated(base, adapter, asked, new_tokens=NEW_TOKENS)
        rows = [("other" if wrong else answer.text, answer.logprob) for answer in found]
        keep_predictions(self.store, rows, mark=f"{seed}-{base.name}")
        for name in ("evaluation_report", "human_evaluation"):
            keep(self.store, name, mark=f"{seed}-{base.name}", files={})
        return [answer.text for answer in found]

    def run(self, *names: str, room: Sequence[dg.AssetsDefinition] = ROOM) -> dg.ExecuteInProcessResult:
        return dg.materialize(room, selection=[f"{USE_CASE}/{name}" for name in names], resources=self.resources, raise_on_error=False)

    def ask(self, texts: Sequence[str]) -> list[ServedAnswer]:
        """Answers, once they are all in the log with their texts: its first rows wait for the scrubber's model."""
        client, log = self.serving.endpoint(USE_CASE).client(), self.serving.traffic_log(SPEC)
        with ThreadPoolExecutor(8) as pool:
            answers = {answer.id: answer for answer in pool.map(client.answer, texts)}
        wait_until(lambda: answers.keys() <= {row.request.id for row in log.window(len(texts)) if row.request.prompt_scrubbed is not None})
        return list(answers.values())


@pytest.fixture
def house(tmp_path: Path, empty_registry: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    for name in (KEY_VARIABLE, ADMIN_KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    uri = f"sqlite:///{shutil.copy(empty_registry, tmp_path)}"
    resources = {
        "store": ArtifactStore(url=str(tmp_path / "store"), reviews=str(tmp_path / "reviews")),
        "compute": HashingCompute(),
        "tracking": ExperimentTracking(uri=uri),
        "serving": Serving(folder=str(tmp_path / "serving")),
    }
    store = Store.at(str(tmp_path / "store"))
    keep_dataset(store)
    made = House(folder=tmp_path, store=store, resources=resources, registry=ModelRegistry(uri=uri, use_case=USE_CASE))
    try:
        yield made
    finally:
        made.serving.candidate(USE_CASE).stop()
        made.serving.endpoint(USE_CASE).stop()


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def shown(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node(f"{USE_CASE}__{asset}")
    return {name: value.value for name, value in event.metadata.items()}


def retrain_job(house: House, base: Path) -> dg.JobDefinition:
    """Training of other weights, then our room: what `retrain` does, with a stand-in for steps 3 to 7."""

    @dg.asset(key=[USE_CASE, "adapter"])
    def trained() -> None:
        house.train(2, base=base)

    job = dg.define_asset_job(f"{USE_CASE}_retrain", selection=dg.AssetSelection.key_prefixes([USE_CASE]))
    definitions = dg.Definitions(assets=[trained, *ROOM, traffic_log(SPEC)], jobs=[job], resources=house.resources)
    return definitions.resolve_job_def(f"{USE_CASE}_retrain")


def test_the_life_of_an_endpoint(house: House):
    base = house.choose_base()
    first = house.train(1, base=base)
    deployed = house.run("registered_model", "endpoint")
    assert deployed.success
    assert checks(deployed) == PASSED
    said = shown(deployed, "endpoint")
    assert (said["action"], said["champion"], said["endpoint_equals_evaluation"]) == ("started", "bank-v1", 1.0)
    assert house.registry.aliases() == {"challenger": 1, "champion": 1}
    assert [answer.text for answer in house.ask(prompts(300, 30))] == first

    _materialized_again_nothing_changes(house, deployed)
    _quiet_traffic_is_skipped_with_the_number(house)
    request = _shifted_traffic_asks_for_a_run(house)
    _that_run_brings_a_new_version_live(house, request, base=base)
    _a_version_that_answers_otherwise_than_evaluated_does_not_go_live(house, base=base)


def _materialized_again_nothing_changes(house: House, before: dg.ExecuteInProcessResult) -> None:
    endpoint = house.serving.endpoint(USE_CASE)
    table = endpoint.folder / VERSIONS_FILE
    pids, written = endpoint.processes(), table.stat().st_mtime_ns
    again = house.run("endpoint")
    assert checks(again) == PASSED
    assert [shown(run, "endpoint")["supervisor_pid"] for run in (before, again)] == pids[:1] * 2
    assert shown(again, "endpoint")["action"] == "adopted"
    # Nothing was loaded or let go: each would be written into the table.
    assert (endpoint.processes(), table.stat().st_mtime_ns) == (pids, written)


def _quiet_traffic_is_skipped_with_the_number(house: House) -> None:
    house.ask(prompts(400, 60))
    watched = house.run("production_traffic", "drift_report")
    assert shown(watched, "production_traffic")["requests"] == 60
    assert shown(watched, "drift_report")["verdict"] == "no drift"
    assert checks(watched) == {"no_drift": True, "within_limits": True}
    found = _sensor_says(house)
    assert isinstance(found, dg.SkipReason)
    assert (found.skip_message or "").startswith("no drift in 60 requests")


def _shifted_traffic_asks_for_a_run(house: House) -> dg.RunRequest:
    house.ask([f"{text} {number}" for number in range(15) for text in FOREIGN])
    watched = house.run("production_traffic", "drift_report")
    assert watched.success
    assert checks(watched) == {"no_drift": False, "within_limits": True}
    found = _sensor_says(house)
    assert isinstance(found, dg.RunRequest)
    return found


def _that_run_brings_a_new_version_live(house: House, request: dg.RunRequest, *, base: Path) -> None:
    before = house.serving.endpoint(USE_CASE).processes()
    result = retrain_job(house, base).execute_in_process(tags=dict(request.tags))
    assert result.success
    assert shown(result, "endpoint")["action"] == "adopted"
    assert house.serving.endpoint(USE_CASE).processes() == before
    assert house.registry.aliases() == {"challenger": 2, "champion": 2, "previous": 1}
    second = [answer.text for answer in evaluated(base, house.folder / f"adapter-2-{base.name}", prompts(300, 30), new_tokens=NEW_TOKENS)]
    answers = house.ask(prompts(300, 30))
    assert [answer.text for answer in answers] == second
    assert {answer.model for answer in answers} == {"bank-v2"}
    assert shown(result, "drift_report")["verdict"] == "not enough traffic"


def _a_version_that_answers_otherwise_than_evaluated_does_not_go_live(house: House, *, base: Path) -> None:
    house.train(3, base=base, wrong=True)
    refused = house.run("registered_model", "endpoint")
    assert not refused.success
    assert checks(refused) == REFUSED
    assert house.registry.aliases() == {"challenger": 3, "champion": 2, "previous": 1}
    assert {answer.model for answer in house.ask(prompts(300, 4))} == {"bank-v2"}
    record = read_endpoint(house.store.current(USE_CASE, "endpoint", passed=False))
    assert record.live is not None
    assert (record.tried, record.live.version) == (3, 2)


def _sensor_says(house: House) -> Any:
    job = dg.define_asset_job(f"{USE_CASE}_retrain", selection="*")
    with dg.DagsterInstance.ephemeral() as instance:
        return drift_sensor(SPEC, job)(dg.build_sensor_context(instance=instance, resources={"store": house.resources["store"]}))


def test_the_same_adapter_is_registered_once_and_the_second_run_reuses_it(house: House):
    house.train(1, base=house.choose_base())
    assert [shown(house.run("registered_model"), "registered_model")["reused"] for _ in range(2)] == [False, True]
    keep(house.store, "evaluation_report", mark="judged again", files={})
    third = shown(house.run("registered_model"), "registered_model")
    assert (third["reused"], third["version"], third["changed"]) == (False, 1, "upstream.evaluation_report")


def test_another_base_model_is_tried_apart_and_when_it_fails_the_old_champion_goes_on(house: House):
    first = house.train(1, base=house.choose_base())
    assert house.run("registered_model", "endpoint").success
    pids = house.serving.endpoint(USE_CASE).processes()
    house.train(2, base=house.choose_base(seed=7), wrong=True)
    refused = house.run("registered_model", "endpoint")
    assert checks(refused) == REFUSED
    assert house.serving.endpoint(USE_CASE).processes() == pids
    assert house.serving.candidate(USE_CASE).processes() == []
    assert not house.serving.candidate(USE_CASE).folder.exists()
    answers = house.ask(prompts(300, 30))
    assert [answer.text for answer in answers] == first
    assert {answer.model for answer in answers} == {"bank-v1"}


def test_a_version_that_looks_passages_up_answers_as_evaluated_each_with_its_own_index(house: House):
    room, base = [registered_model(HYBRID), endpoint(HYBRID)], house.choose_base()
    assert all(dg.AssetKey([USE_CASE, "retrieval_index"]) in asset.dependency_keys for asset in room)
    for version, texts in enumerate((GUIDANCE, [f"{text} within five days" for text in GUIDANCE]), start=1):
        index = keep_index(house.store, small_index(house.folder / f"index-{version}", texts, encoder=MINILM, embed=minilm))
        wanted = house.train(version, base=base, index=index)
        deployed = house.run("registered_model", "endpoint", room=room)
        assert checks(deployed) == PASSED
        assert shown(deployed, "endpoint")["action"] == ("started", "adopted")[version - 1]
        registered = read_registered(house.store.current(USE_CASE, "registered_model"))
        assert registered.retrieval is not None
        assert (registered.retrieval.fingerprint, registered.retrieval.passages) == (index.fingerprint, 2)
        answers = house.ask(prompts(300, 30))
        assert [answer.text for answer in answers] == wanted
        assert {len(answer.sources) for answer in answers} == {2}
        assert {answer.model for answer in answers} == {f"bank-v{version}"}
    # Evaluated without passages, the same weights would answer otherwise: the comparison sees that.
    rows = evaluated(base, house.folder / f"adapter-2-{base.name}", prompts(300, 30), new_tokens=NEW_TOKENS)
    keep_predictions(house.store, [(row.text, row.logprob) for row in rows], mark="without passages")
    refused = house.run("endpoint", room=room)
    assert checks(refused)["parity"] is False


def test_a_version_that_people_like_less_is_rolled_back_by_itself_and_not_tried_again(house: House):
    spec = use_case(canary={"share": 0.5, "answers": 20}, shadow=5)
    room, base = [registered_model(spec), endpoint(spec)], house.choose_base()
    right = dict(zip(prompts(300, 30), house.train(1, base=base), strict=True))
    assert house.run("registered_model", "endpoint", room=room).success
    house.ask(prompts(300, 10))
    house.train(2, base=base)
    begun = house.run("registered_model", "endpoint", room=room)
    assert checks(begun) == PASSED
    assert shown(begun, "endpoint")["release"] == "canary begins: bank-v2 gets 50% beside version 1, until 20 requests or 60 minutes"
    assert shown(begun, "endpoint")["champion"] == "bank-v1"
    shadow = next(check for check in begun.get_asset_check_evaluations() if check.check_name == "shadow")
    assert (shadow.description or "").startswith("5 recent prompts were answered by both")

    client = house.serving.endpoint(USE_CASE).client()
    said = [client.answer(prompt) for prompt in [*right, *right]]
    for prompt, answer in zip([*right, *right], said, strict=True):
        client.feedback(answer.id, thumb="up" if answer.text == right[prompt] else "down")
    known = dg.build_sensor_context(resources={name: house.resources[name] for name in ("store", "serving", "tracking")})
    decided = release_sensor(spec)(known)
    assert isinstance(decided, dg.SensorResult)
    check = next(event for event in decided.asset_events if isinstance(event, dg.AssetCheckEvaluation) and event.check_name == "canary")
    assert not check.passed
    assert "bad_feedback" in (check.description or "")
    assert house.registry.aliases() == {"challenger": 2, "champion": 1}
    assert {answer.model for answer in house.ask(prompts(300, 10))} == {"bank-v1"}

    again = house.run("endpoint", room=room)
    assert checks(again) == {**PASSED, "canary": False}
    assert "--again" in shown(again, "endpoint")["release"]
    record = read_endpoint(house.store.current(USE_CASE, "endpoint", passed=False))
    assert record.live is not None
    assert (record.tried, record.live.version) == (2, 1)

    house.train(3, base=base)
    assert house.run("registered_model", room=room).success
    weights = house.store.current(USE_CASE, "adapter").file("adapter") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    changed = house.run("endpoint", room=room)
    failed = next(check for check in changed.get_asset_check_evaluations() if check.check_name == "loads")
    assert not failed.passed
    assert "the files were changed after registration" in (failed.description or "")
    assert {answer.model for answer in house.ask(prompts(300, 4))} == {"bank-v1"}


@pytest.mark.slow
def test_another_base_model_that_answers_as_evaluated_takes_over(house: House):
    house.train(1, base=house.choose_base())
    assert house.run("registered_model", "endpoint").success
    second = house.train(2, base=house.choose_base(seed=7))
    result = house.run("registered_model", "endpoint")
    assert result.success
    assert shown(result, "endpoint")["action"] == "restarted"
    assert [answer.text for answer in house.ask(prompts(300, 30))] == second
