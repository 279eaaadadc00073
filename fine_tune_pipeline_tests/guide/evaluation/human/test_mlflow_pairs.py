"""Pairs in review queues of a real MLflow server on SQLite, with people who answer as its web page does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import pytest

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.guide.evaluation.assets import human_evaluation, predictions
from fine_tune_pipeline.people.review_queue import finished_in
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline_tests.guide.evaluation.world import PretendedCompute, before_evaluation, examples, resources, use_case
from fine_tune_pipeline_tests.mlflow_people import People, mlflow_server

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")

TRAIN, TEST = examples(80, start=1000), examples(60)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    before = mlflow.get_tracking_uri()
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as address:
        mlflow.set_tracking_uri(address)
        yield address
    mlflow.set_tracking_uri(before)


class World:
    """A store with predictions, and the human evaluation that asks in MLflow."""

    def __init__(self, folder: Path, address: str, **human: Any) -> None:
        self.folder, self.address = folder, address
        self.store = Store.at(str(folder / "store"))
        # A use case of its own for every test: they share the server.
        self.spec: UseCaseSpec = use_case(folder, evaluation={"human": {"formats": ["mlflow"], "pairs": 4, "repeated": 0, **human}})
        self.spec = self.spec.model_copy(update={"name": "triage"})
        before_evaluation(self.store, train=TRAIN, test=TEST)
        self._run(predictions)

    def _run(self, *factories: Any, address: str | None = None) -> dg.ExecuteInProcessResult:
        bound = resources(self.folder, PretendedCompute(answers={row.id: row.completion for row in TEST}))
        tracking = ExperimentTracking(uri=address or self.address, artifacts=None)
        return dg.materialize([factory(self.spec) for factory in factories], resources={**bound, "tracking": tracking}, raise_on_error=True)

    def run(self, **more: Any) -> dict[str, Any]:
        result = self._run(human_evaluation, **more)
        return {name: value.value for name, value in result.asset_materializations_for_node("triage__human_evaluation")[0].metadata.items()}

    @property
    def experiment(self) -> str:
        (folder,) = (self.folder / "reviews" / "triage" / "pairs").iterdir()
        return f"triage_pairs_{folder.name}"

    def people(self) -> People:
        return People(ExperimentTracking(uri=self.address), self.experiment)

    def key(self) -> dict[str, dict[str, str]]:
        return self.store.current("triage", "human_evaluation").json("key.json")

    def refused(self) -> list[tuple[str, str]]:
        rows = read_rows(self.store.current("triage", "human_evaluation").file("quarantine.jsonl"))
        return [(row["original"]["id"], row["reason"]) for row in rows]


def own_side(secret: dict[str, str]) -> str:
    return "A" if secret["A"] == "fine_tuned" else "B"


def test_each_reviewer_judges_all_pairs_blindly_and_the_answers_come_back(tmp_path: Path, address: str):
    world = World(tmp_path, address, reviewers=["Kim", "Lee"])
    first = world.run()
    assert (first["mlflow"], first["state"]) == ("asked", "waiting for people (0 of 4; missing of Kim 4, Lee 4)")
    people, key = world.people(), world.key()
    queues = people.items()
    assert {name: set(items) for name, items in queues.items()} == {"review: kim": set(key), "review: lee": set(key)}
    assert len({trace for items in queues.values() for _, trace in items.values()}) == 8
    for _, trace in queues["review: kim"].values():
        assert_blind(mlflow.get_trace(trace), key)
    for pair, item in queues["review: kim"].items():
        people.answer(item, "Kim", choice=own_side(key[pair]), correct="both")
    assert finished_in(address, world.experiment) != ""
    partly = world.run()
    assert (partly["partial"], partly["answered"], partly["win_rate"]) == (True, 4, 1.0)
    assert "missing of Lee 4" in partly["state"]
    for pair, item in queues["review: lee"].items():
        people.answer(item, "lee", choice=own_side(key[pair]))
    done = world.run()
    assert (done["partial"], done["people"], done["quarantined"]) == (False, 2, {})
    assert len(people.items()["review: kim"]) == 4


def assert_blind(trace: Any, key: dict[str, dict[str, str]]) -> None:
    """Prompt, A and B, and no name of a system in any attribute, tag or input."""
    span = trace.data.spans[0]
    assert set(span.inputs) == {"prompt"}
    assert set(span.outputs) == {"A", "B"}
    everything = json.dumps([trace.info.to_dict(), span.to_dict()], default=str)
    assert not [name for secret in key.values() for name in (secret["A"], secret["B"]) if name in everything]


def test_answers_that_mlflow_takes_but_that_are_none_are_named(tmp_path: Path, address: str):
    world = World(tmp_path, address, reviewers=["kim"], questions={"tone": "Which has the right tone?"}, pairs=6)
    world.run()
    people = world.people()
    [(_, items)] = people.items().items()
    nonsense, stranger, nothing, unfinished, against, changed = sorted(items)
    people.answer(items[nonsense], "kim", choice="nonsense")
    people.answer(items[stranger], "default", choice="A")
    people.answer(items[nothing], "kim")
    people.answer(items[unfinished], "kim", done=False, choice="A")
    people.answer(items[against], "kim", choice="A", tone="B")
    people.answer(items[changed], "kim", choice="A")
    people.answer(items[changed], "kim", choice="B")
    shown = world.run()
    assert shown["answered"] == 1
    assert sorted(world.refused()) == sorted(
        [(nonsense, "unknown_choice"), (stranger, "stranger"), (nothing, "unfinished"), (against, "contradiction")]
    )
    judged = read_rows(world.store.current("triage", "human_evaluation").file("judgements.jsonl"))
    assert [(row["pair"], row["choice"]) for row in judged] == [(changed, "B")]


def test_without_names_one_queue_is_everybodys(tmp_path: Path, address: str):
    world = World(tmp_path, address, pairs=3)
    world.run()
    people, key = world.people(), world.key()
    [(name, items)] = people.items().items()
    assert name == "review: everybody"
    for pair, item in items.items():
        people.answer(item, "default", choice=own_side(key[pair]))
    assert world.run()["state"] == "all pairs are judged"


def test_a_server_that_is_down_stops_nothing_and_what_it_gave_before_counts(tmp_path: Path, address: str, dead: str):
    world = World(tmp_path, address, pairs=2)
    world.run()
    people, key = world.people(), world.key()
    for pair, item in people.items()["review: everybody"].items():
        people.answer(item, "kim", choice=own_side(key[pair]))
    world.run()
    shown = world.run(address=dead)
    assert shown["mlflow"].startswith("not asked now, what it gave before counts (TrackingSilent: MLflow at http://127.0.0.1:")
    assert (shown["state"], shown["win_rate"]) == ("all pairs are judged", 1.0)


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address where nothing listens."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return "http://127.0.0.1:9"
