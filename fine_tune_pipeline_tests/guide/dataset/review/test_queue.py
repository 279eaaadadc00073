"""Review queues in MLflow, on a real store in SQLite."""

import mlflow
import pytest

from fine_tune_pipeline.guide.dataset.review.queue import example_queue
from fine_tune_pipeline.people.review_queue import NotInTheQueue
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline_tests.guide.dataset.make import example
from fine_tune_pipeline_tests.guide.dataset.reviewing import Room, experts, rows
from fine_tune_pipeline_tests.mlflow_people import People

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """One database for all tests, since making it takes seconds."""
    folder, before = tmp_path_factory.mktemp("mlflow"), mlflow.get_tracking_uri()
    tracking = ExperimentTracking(uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "artifacts"))
    mlflow.set_tracking_uri(tracking.uri)
    yield tracking
    mlflow.set_tracking_uri(before)


@pytest.fixture
def server(tracking, request):
    return People(tracking, request.node.name)


def queue(server, *reviewers):
    return example_queue(server.uri, server.name, reviewers)


def test_rows_go_into_the_queue_and_verdicts_come_back_as_from_a_file(tmp_path, server):
    room = Room(tmp_path, rows(), experts(share=0.5), queue=queue(server))
    room.run()
    [(name, items)] = server.items().items()
    assert name == "review: everybody"
    by_id = {row["id"]: items[row["content"]] for row in room.handout}
    one, two, three, four, five = room.handed_out
    trace = mlflow.get_trace(by_id[one][1])
    assert trace.data.spans[0].inputs["prompt"] == room.handout[0]["prompt"]
    server.answer(by_id[one], "kim", correct=True, complete=True, tone=True, private=True)
    server.answer(by_id[two], "kim", verdict="fix", corrected="pear", note="a pear")
    server.answer(by_id[three], "kim", verdict="nonsense")
    server.answer(by_id[four], "kim", verdict="accept", done=False)
    server.answer(by_id[five], "kim", verdict="accept")
    server.answer(by_id[five], "kim", verdict="reject")
    room.run()
    assert room.kept[one].metadata["reviewed_by"] == "kim"
    assert room.kept[two].completion == "pear"
    assert five not in room.kept
    assert [row["reason"] for row in room.refused] == ["unknown_verdict"]
    assert set(room.handed_out) == {three, four}
    assert {verdict.id: verdict.note for verdict in room.round.verdicts}[two] == "a pear"
    assert len(server.items()["review: everybody"]) == 5
    assert mlflow.get_tracking_uri() == server.uri


def test_each_reviewer_has_a_queue_and_rows_for_two_lie_in_both(tmp_path, server):
    room = Room(tmp_path, rows(), experts(share=1.0, double_share=0.4), queue=queue(server, "Kim", "Lee", "Max"))
    room.run()
    queues = server.items()
    assert set(queues) == {"review: kim", "review: lee", "review: max"}
    places = {row["content"]: [name for name, items in queues.items() if row["content"] in items] for row in room.handout}
    assert {len(places[row["content"]]) for row in room.handout if row["look"] == "two people"} == {2}
    assert {len(places[row["content"]]) for row in room.handout if row["look"] == "one person"} == {1}
    traces = [item for items in queues.values() for _, item in items.values()]
    assert len(set(traces)) == len(traces) == 14


def test_rows_that_mlflow_did_not_keep_are_told(tmp_path, server):
    room = Room(tmp_path, rows(), experts(), queue=queue(server))
    mlflow.tracing.disable()
    try:
        with pytest.raises(NotInTheQueue, match="2 of 2 rows"):
            room.run()
    finally:
        mlflow.tracing.enable()
    room.run()
    assert len(server.items()["review: everybody"]) == 2


def test_who_disagree_get_a_third_reviewer(tmp_path, server):
    room = Room(
        tmp_path, [example("m", "odd", metadata={"marked": "x"})], experts(double_share=1.0), queue=queue(server, "Kim", "Lee", "Max")
    )
    room.run()
    offered = {name.removeprefix("review: "): items for name, items in server.items().items()}
    assert len(offered) == 2
    for person, word in zip(sorted(offered), ("accept", "reject"), strict=True):
        [item] = offered[person].values()
        server.answer(item, person, verdict=word)
    room.run()
    assert not room.check.passed
    [third] = {"kim", "lee", "max"} - offered.keys()
    [item] = server.items()[f"review: {third}"].values()
    server.answer(item, third, verdict="accept")
    room.run()
    assert room.check.passed
    assert room.kept["m"].metadata["review"] == "accept"
