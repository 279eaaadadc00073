"""An endpoint looks things up in the index that its adapter was trained with, and in no other."""

from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.guide.deployment.served_index import OtherIndex, retrieval_of
from fine_tune_pipeline_tests.guide.deployment.world import keep, keep_index
from fine_tune_pipeline_tests.small_index import ROOM as ROOM_TOKENS
from fine_tune_pipeline_tests.small_index import small_index

GUIDANCE = ["Cards that are lost are blocked at once", "Transfers that are late are looked at", "Loans that are repaid are closed"]


def test_an_index_that_the_adapter_was_not_trained_with_is_refused_by_name(tmp_path: Path):
    store = Store.at(str(tmp_path / "store"))
    indexes = [keep_index(store, small_index(tmp_path / name, GUIDANCE[place:])) for place, name in enumerate("ab")]
    trained = keep(store, "adapter", mark="one", files={}, upstream={"retrieval_index": indexes[0]})
    assert retrieval_of(indexes[0], adapter=trained).room_tokens == ROOM_TOKENS
    with pytest.raises(OtherIndex, match=f"{indexes[1].fingerprint}: the adapter .* trained with {indexes[0].fingerprint}.*materialize"):
        retrieval_of(indexes[1], adapter=trained)
    old = keep(store, "retrieval_index", mark="old", files={"index.json": {"source": "documents"}})
    with pytest.raises(OtherIndex, match="before it could be served"):
        retrieval_of(old, adapter=keep(store, "adapter", mark="old", files={}, upstream={"retrieval_index": old}))
