import numpy as np

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Store, content_of
from fine_tune_pipeline.guide.dataset.sources.production import FAR
from fine_tune_pipeline.guide.deployment.monitoring import for_review
from fine_tune_pipeline.guide.deployment.monitoring.for_review import keep_for_review, unlike


def test_requests_below_the_threshold_are_named_the_least_alike_first():
    rows = [{"id": name} for name in "abcd"]
    assert unlike(rows, np.array([0.5, 0.2, 0.9, 0.1], dtype=np.float32), threshold=0.5) == ["d", "b"]


def test_a_report_remembers_those_of_the_reports_before_each_once_and_the_newest_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(for_review, "MOST", 3)
    with Store.at(str(tmp_path)).draft("bank", content_of(asset="drift_report", version=1, what={}, upstream={})) as draft:
        assert keep_for_review(["a", "b"], before=None, folder=draft.folder) == 2
        before = draft.finish(Built())
    later = tmp_path / "later"
    later.mkdir()
    assert keep_for_review(["b", "c", "d"], before=before, folder=later) == 3
    assert [row["id"] for row in read_rows(later / FAR)] == ["b", "c", "d"]


def test_without_any_there_is_no_file(tmp_path):
    assert keep_for_review([], before=None, folder=tmp_path) == 0
    assert not (tmp_path / FAR).exists()
