"""The drift report: quiet, shifted, unsure, worse, and too little traffic; always against what the champion was made for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, Store, content_of
from fine_tune_pipeline.guide.dataset.sources.production import FAR
from fine_tune_pipeline.guide.deployment.live import Live
from fine_tune_pipeline.guide.deployment.monitoring.build import Watched, build_drift_report, comparable
from fine_tune_pipeline.guide.deployment.monitoring.labels import Label
from fine_tune_pipeline.guide.deployment.monitoring.message import message
from fine_tune_pipeline.guide.deployment.monitoring.operations import OperationLimits
from fine_tune_pipeline.guide.deployment.monitoring.reference import Embedded, ReferenceGone
from fine_tune_pipeline.guide.deployment.monitoring.report import VERSION, DriftReport, EarlierReport, read_drift
from fine_tune_pipeline.guide.deployment.monitoring.windows import Window
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline_tests.guide.deployment.world import FOREIGN, USE_CASE, keep_dataset, keep_predictions, prompts, use_case, words

SURE = [("x" * (8 + place % 5), -0.1 - 0.01 * place) for place in range(30)]
STRANGE = [f"{text} {number}" for number in range(5) for text in FOREIGN]


def requests(texts: Sequence[str], *, confidence: float = -0.25, version: str = "1", **more: Any) -> list[dict[str, Any]]:
    spread = [confidence + 0.01 * (place % 15 - 7) for place in range(len(texts))]
    return [
        {
            "id": f"r{place}",
            "ts": 1000.0 + place,
            "version": version,
            "status": 200,
            "prompt_scrubbed": text,
            "answer_scrubbed": "x" * (8 + place % 5),
            "answer_characters": 8 + place % 5,
            "confidence": sure,
            "valid": True,
            "latency_ms": 20.0,
            "prompt_tokens": 9,
            "new_tokens": 4,
            **more,
        }
        for place, (text, sure) in enumerate(zip(texts, spread, strict=True))
    ]


def window(number: int, rows: Sequence[dict[str, Any]]) -> tuple[Window, Sequence[dict[str, Any]]]:
    fields = {"file": "", "sha256": f"{number:064d}", "requests": len(rows), "first": 1.0, "last": 2.0, "versions": {"1": len(rows)}}
    return Window.model_validate({"number": number, "statuses": {"200": len(rows)}, **fields}), rows


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(str(tmp_path / "store"))


@pytest.fixture
def watched(store: Store) -> Watched:
    dataset, predictions = keep_dataset(store), keep_predictions(store, SURE)
    live = Live(version=1, name="bank-v1", adapter_sha256="a", dataset=dataset.fingerprint, predictions=predictions.fingerprint)
    return Watched(
        live=live,
        windows=[window(1, requests(prompts(400, 60)))],
        waiting=7,
        labels=(),
        task=Task(type="question_answering"),
        monitoring=use_case().deployment.monitoring,
        limits=OperationLimits(error_share=0.02, p95_latency_seconds=1.0, cost_per_1000=None),
        prices=None,
        seed=3,
    )


def reported(store: Store, watched: Watched, *, embed: Any = words, before: Artifact | None = None) -> tuple[DriftReport, Artifact]:
    """One materialization."""
    mark = len(store.history(USE_CASE, "drift_report"))
    with store.draft(USE_CASE, content_of(asset="drift_report", version=VERSION, what={"mark": mark}, upstream={})) as draft:
        artifact = draft.finish(build_drift_report(store, USE_CASE, watched, embed=embed, before=before, folder=draft.folder))
    return read_drift(artifact), artifact


def check_of(artifact: Artifact, name: str = "no_drift") -> tuple[bool, str]:
    [check] = [check for check in artifact.manifest.built.checks if check.name == name]
    assert not check.blocking
    return check.passed, check.description


def looking_at(watched: Watched, rows: Sequence[dict[str, Any]], *, number: int = 1) -> Watched:
    return replace(watched, windows=[window(number, rows)])


def test_messages_of_the_same_kind_are_no_drift(store: Store, watched: Watched):
    report, artifact = reported(store, watched)
    passed, said = check_of(artifact)
    assert (passed, report.verdict, report.requests, report.new_windows) == (True, "no drift", 60, 1)
    assert said.startswith("no drift in 60 requests")
    named = {signal.name for signal in report.signals}
    assert named == {"far_share", "new_subjects", "confidence", "mean_embedding", "prompt_length", "answer_length"}


def test_foreign_messages_are_drift_with_p_effect_numbers_and_the_loudest_examples(store: Store, watched: Watched):
    report, artifact = reported(store, looking_at(watched, requests([*prompts(400, 40), *STRANGE])))
    passed, said = check_of(artifact)
    assert (passed, report.verdict) == (False, "drift")
    assert "retrain" in said
    far = next(signal for signal in report.signals if signal.name == "far_share")
    assert far.alarm
    assert far.p <= far.adjusted <= report.alpha
    assert (far.production, far.reference, len(far.examples), far.calls_for) == (60, 70, 5, "retrain")
    assert far.effect > 0.2
    assert set(far.examples) <= set(STRANGE)
    [judged] = report.judged
    assert (judged.retrain, judged.number, judged.far) == (True, 1, pytest.approx(20 / 60, abs=0.1))
    assert len(read_rows(artifact.file(FAR))) == round(60 * judged.far)


def test_answers_less_sure_than_on_the_test_set_are_drift(store: Store, watched: Watched):
    report, _ = reported(store, looking_at(watched, requests(prompts(400, 60), confidence=-1.5)))
    assert (report.verdict, report.judged[-1].alarms, report.judged[-1].retrain) == ("drift", ("confidence",), True)


def test_refusals_are_drift_but_call_for_no_retraining(store: Store, watched: Watched):
    rows = requests(prompts(400, 60))
    refusing = [{**row, "answer_scrubbed": "I am sorry, I cannot help."} if place % 3 == 0 else row for place, row in enumerate(rows)]
    report, _ = reported(store, looking_at(watched, refusing))
    assert (report.verdict, report.judged[-1].alarms, report.judged[-1].retrain) == ("drift", ("refused",), False)


def test_too_little_traffic_is_never_no_drift(store: Store, watched: Watched):
    report, artifact = reported(store, looking_at(watched, requests([*FOREIGN] * 9 + prompts(400, 3))))
    passed, said = check_of(artifact)
    assert (passed, report.verdict, report.signals) == (False, "not enough traffic", ())
    assert said == "not enough traffic: 39 answered requests to bank-v1 in the last window, want at least 40"


def test_before_a_window_is_closed_it_says_how_many_requests_wait(store: Store, watched: Watched):
    _, artifact = reported(store, replace(watched, windows=()))
    assert check_of(artifact) == (False, "not enough traffic: 7 requests wait, a window is closed with 60")


def test_without_a_champion_there_is_nothing_to_compare(store: Store, watched: Watched):
    report, artifact = reported(store, replace(watched, live=None))
    assert (report.verdict, check_of(artifact)[1]) == ("not enough traffic", "not enough traffic: no version is live")


def test_only_answered_readable_requests_to_the_champion_count(watched: Watched):
    others = [
        *requests(["old version"], version="7"),
        *requests(["error"], status=504),
        *requests(["unscrubbed"], prompt_scrubbed=None),
    ]
    assert comparable(watched.live, [*others, *requests(["counts"])]) == requests(["counts"])


def test_the_reference_is_the_champions_own_even_when_newer_data_lies_in_the_store(store: Store, watched: Watched):
    with store.draft(USE_CASE, content_of(asset="dataset", version=1, what={"mark": "newer"}, upstream={})) as draft:
        draft.finish(Built())
    assert reported(store, watched)[0].verdict == "no drift"


def test_a_reference_that_was_deleted_is_a_clear_error(store: Store, watched: Watched):
    assert watched.live is not None
    gone = watched.live.model_copy(update={"dataset": "0" * 16})
    with pytest.raises(ReferenceGone, match="dataset 0000"):
        reported(store, replace(watched, live=gone))


def test_each_window_is_judged_once_and_the_references_embeddings_are_made_once(store: Store, watched: Watched):
    asked: list[int] = []

    def counted(texts: Sequence[str]) -> Embedded:
        asked.append(len(texts))
        return words(texts)

    _, first = reported(store, watched, embed=counted)
    again, second = reported(store, watched, embed=counted, before=first)
    assert (asked, again.new_windows, again.verdict, len(again.judged)) == ([60, 190], 0, "no drift", 1)
    more = replace(watched, windows=[*watched.windows, window(2, requests(prompts(500, 60))), window(3, requests(prompts(600, 60)))])
    third, _ = reported(store, more, embed=counted, before=second)
    assert (asked[2:], third.new_windows, [one.number for one in third.judged]) == ([120], 2, [1, 2, 3])


def test_a_new_champion_starts_anew_and_old_windows_say_nothing_of_it(store: Store, watched: Watched):
    shifted = looking_at(watched, requests([*prompts(400, 40), *STRANGE]))
    report, first = reported(store, shifted)
    assert len(report.last_judged(3)) == 1
    assert watched.live is not None
    second = replace(shifted, live=watched.live.model_copy(update={"version": 2, "name": "bank-v2"}))
    after, _ = reported(store, second, before=first)
    assert (after.verdict, after.signals, after.last_judged(3)) == ("not enough traffic", (), [])


def test_labels_that_say_that_answers_became_worse_are_drift_at_any_look(store: Store, watched: Watched):
    feedback = watched.monitoring.feedback.model_copy(update={"expected": 0.9})
    spec = watched.monitoring.model_copy(update={"feedback": feedback})
    bad = [Label(request=str(n), source="user", version="1", good=n % 2 == 0, by="thumb") for n in range(60)]
    others = [label.model_copy(update={"version": "7", "good": False}) for label in bad]
    report, artifact = reported(store, replace(watched, labels=[*others, *bad], monitoring=spec))
    assert report.feedback is not None
    assert (report.verdict, report.feedback.alarm, report.feedback.labels, report.feedback.good) == ("drift", True, 60, 30)
    assert "30 of 60 labelled answers are good" in check_of(artifact)[1]
    few, _ = reported(store, replace(watched, labels=[label for label in bad if int(label.request) < 20], monitoring=spec))
    assert few.feedback is not None
    assert (few.verdict, few.feedback.alarm) == ("no drift", False)
    unknown, _ = reported(store, replace(watched, labels=bad))
    assert unknown.feedback is None


def test_a_broken_limit_warns_and_is_no_drift(store: Store, watched: Watched):
    rows = [*requests(prompts(400, 57)), *requests(prompts(900, 3), status=500)]
    report, artifact = reported(store, looking_at(watched, rows))
    assert check_of(artifact, "within_limits") == (False, "above: error_share 0.05 share (limit 0.02)")
    assert (report.verdict, report.judged[-1].retrain) == ("no drift", False)


def test_the_page_shows_verdict_examples_and_plots_and_no_text_becomes_markup(store: Store, watched: Watched):
    rows = requests([*prompts(400, 40), *(f"<script>alert(1)</script> {text}" for text in STRANGE)])
    _, artifact = reported(store, looking_at(watched, rows))
    page = artifact.file("drift.html").read_text(encoding="utf-8")
    assert "<h1>Drift</h1>" in page
    assert "Loudest requests: far_share" in page
    assert page.count("<svg") == 2
    assert "<script" not in page
    shown = artifact.manifest.built.markdown
    assert shown["signals_plot"].startswith("![How strong")
    assert "<script" not in shown["report"]


def test_the_webhooks_message_is_told_once_and_holds_no_request(store: Store, watched: Watched):
    shifted = looking_at(watched, requests([*prompts(400, 40), *STRANGE]))
    report, first = reported(store, shifted)
    told = message(report, use_case=USE_CASE, fingerprint=first.fingerprint)
    assert told is not None
    assert (told["verdict"], told["windows"], told["report"]) == ("drift", [1], first.fingerprint)
    assert told["text"].startswith("bank: drift: far_share: p ")
    assert not any(text in str(told) for text in STRANGE)
    again, second = reported(store, shifted, before=first)
    assert message(again, use_case=USE_CASE, fingerprint=second.fingerprint) is None
    quiet, artifact = reported(store, watched)
    assert message(quiet, use_case=USE_CASE, fingerprint=artifact.fingerprint) is None


def test_a_report_of_an_earlier_form_is_not_read_and_begins_anew(store: Store, watched: Watched):
    with store.draft(USE_CASE, content_of(asset="drift_report", version=1, what={}, upstream={})) as draft:
        (draft.folder / "drift.json").write_text("{}", encoding="utf-8")
        old = draft.finish(Built())
    with pytest.raises(EarlierReport, match="run the monitor job"):
        read_drift(old)
    assert reported(store, watched, before=old)[0].verdict == "no drift"
