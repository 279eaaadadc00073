"""The traffic log, as a file and on a server: what is written is found again, feedback counts once, nothing is made up."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from fine_tune_pipeline.artifacts.traffic import FILE, Feedback, ServedRequest, Settled, TrafficLog, UnknownRequest
from fine_tune_pipeline.artifacts.traffic_database import LogFailed, NoDatabaseUrl
from fine_tune_pipeline.artifacts.traffic_removal import Removed, expire, forget, of_user
from fine_tune_pipeline.spec.traffic import TrafficSpec
from fine_tune_pipeline_tests.guide.dataset.postgres import BINARIES, postgres, stop

ROW = ServedRequest(
    id="a",
    ts=1.0,
    use_case="bank",
    version="1",
    arm="champion",
    prompt_scrubbed="where is my card, <PERSON>",
    answer_scrubbed="lost_card",
    prompt_tokens=7,
    new_tokens=2,
    latency_ms=12.5,
    status=200,
    valid=True,
    confidence=-0.25,
    user_hash="ab12",
    prompt_characters=30,
    answer_characters=9,
    scrubber="test",
)


STORES = [
    "sqlite",
    pytest.param("postgres", marks=pytest.mark.skipif(not BINARIES, reason="needs PostgreSQL's server: apt-get install postgresql")),
]
ON_SERVER = TrafficSpec(url_variable="TEST_TRAFFIC")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


def on_server(url: str, folder: Path, *, use_case: str = "bank", kept_open: bool = False) -> TrafficLog:
    return TrafficLog.of(ON_SERVER, use_case=use_case, folder=folder, kept_open=kept_open, environment={"TEST_TRAFFIC": url})


@pytest.fixture(params=STORES)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TrafficLog]:
    if request.param == "sqlite":
        yield TrafficLog.at(tmp_path / "endpoint")
        return
    # As people write it, without the driver's name.
    url = request.getfixturevalue("server").replace("+psycopg", "")
    log = on_server(url, tmp_path)
    yield log
    log.tables.metadata.drop_all(log.database._engine)


@pytest.fixture
def file_log(tmp_path: Path) -> TrafficLog:
    return TrafficLog.at(tmp_path / "endpoint")


def test_a_log_that_was_never_written_is_empty(log: TrafficLog):
    assert (log.corrections(), log.window(10), log.dropped(), len(log), log.settled("nobody")) == ([], [], 0, 0, None)


def test_reading_a_log_that_was_never_written_makes_no_file(file_log: TrafficLog):
    assert file_log.window(10) == []
    assert not file_log.path.parent.exists()


def test_a_row_comes_back_as_it_was_written(log: TrafficLog):
    unscrubbed = replace(ROW, id="b", ts=2.0, prompt_scrubbed=None, prompt_hash="f0", valid=None, confidence=None)
    log.append([ROW, unscrubbed])
    assert [logged.request for logged in log.window(10)] == [ROW, unscrubbed]


def test_rows_are_written_all_or_none(log: TrafficLog):
    log.append([ROW])
    with pytest.raises(LogFailed):
        log.append([replace(ROW, id="new"), ROW])
    assert len(log) == 1


def test_the_window_holds_the_last_requests_of_the_champion_oldest_first(log: TrafficLog):
    log.append([replace(ROW, id=str(number), ts=float(number)) for number in range(6)])
    log.append([replace(ROW, id="probe", ts=9.0, arm="probe"), replace(ROW, id="v2", ts=8.0, version="2")])
    assert [logged.request.id for logged in log.window(3)] == ["4", "5", "v2"]
    assert [logged.request.id for logged in log.window(3, versions=["1"])] == ["3", "4", "5"]
    assert [logged.request.id for logged in log.window(10, since=5.0)] == ["5", "v2"]
    assert [logged.request.id for logged in log.window(10, arm="probe")] == ["probe"]


def test_feedback_on_an_unknown_request_is_refused(log: TrafficLog):
    log.append([ROW])
    with pytest.raises(UnknownRequest, match="'nobody'"):
        log.feedback(Feedback("nobody", thumb="up"))


def test_the_same_feedback_twice_counts_once_and_another_word_of_the_same_source_replaces_it(log: TrafficLog):
    log.append([ROW])
    for _ in range(2):
        log.feedback(Feedback("a", thumb="down", source="ann"), ts=5.0)
    log.feedback(Feedback("a", thumb="up", source="bob"), ts=6.0)
    log.feedback(Feedback("a", thumb="up", source="ann"), ts=7.0)
    assert log.window(1)[0].feedback == (Feedback("a", "up", None, "bob"), Feedback("a", "up", None, "ann"))


def test_the_latest_correction_of_a_request_counts(log: TrafficLog):
    log.append([ROW, replace(ROW, id="b", ts=0.5, version="2"), replace(ROW, id="c")])
    log.feedback(Feedback("a", corrected="stolen_card", source="ann"), ts=10.0)
    log.feedback(Feedback("a", corrected="lost_card", source="bob"), ts=9.0)
    log.feedback(Feedback("b", corrected="fees", source="bob"), ts=8.0)
    log.feedback(Feedback("c", thumb="up"), ts=8.0)
    prompt = ROW.prompt_scrubbed
    assert log.corrections() == [
        {"id": "b", "prompt": prompt, "completion": "fees", "version": "2"},
        {"id": "a", "prompt": prompt, "completion": "stolen_card", "version": "1"},
    ]


def test_a_correction_of_a_request_without_text_is_no_example(log: TrafficLog):
    log.append([replace(ROW, prompt_scrubbed=None)])
    log.feedback(Feedback("a", corrected="fees"))
    assert log.corrections() == []


def test_dropped_rows_add_up(log: TrafficLog):
    log.drop(3, reason="disk full")
    log.drop(4, reason="disk full")
    assert log.dropped() == 7


def test_more_requests_than_one_statement_takes_keep_their_feedback(log: TrafficLog):
    log.append([replace(ROW, id=str(number), ts=float(number)) for number in range(1200)])
    for request_id in ("0", "700", "1199"):
        log.feedback(Feedback(request_id, thumb="down"))
    said = [logged.request.id for logged in log.window(1200) if logged.feedback]
    assert said == ["0", "700", "1199"]


def test_a_reader_sees_whole_batches_while_a_writer_is_at_work(file_log: TrafficLog):
    log = file_log
    log.append([ROW])
    with sqlite3.connect(log.path) as writer:
        writer.execute("UPDATE request SET answer_scrubbed = 'half'")
        assert log.window(1)[0].request.answer_scrubbed == "lost_card"
        writer.rollback()
    writer.close()
    assert log.path.name == FILE


def test_a_log_of_an_earlier_version_gets_what_came_later(file_log: TrafficLog):
    log = file_log
    log.append([ROW])
    log.drop(2, reason="disk full")
    with sqlite3.connect(log.path) as connection:
        for name in ("before_scrubbed", "sources", "key_name"):
            connection.execute(f"ALTER TABLE request DROP COLUMN {name}")
        connection.execute("ALTER TABLE dropped DROP COLUMN use_case")
        connection.execute("DROP TABLE settled")
    connection.close()
    log = TrafficLog.at(log.path.parent)
    assert (log.dropped(), log.settled("nobody")) == (2, None)
    assert log.window(1)[0].request == ROW
    log.append([replace(ROW, id="b", ts=ROW.ts + 1, before_scrubbed='{"history": []}', sources='["a"]')])
    assert log.window(1)[0].request.sources == '["a"]'
    log.feedback(Feedback("b", corrected="fees"))
    assert log.corrections()[0]["before"] == '{"history": []}'


def test_what_a_database_cannot_hold_is_replaced_and_the_rest_of_the_batch_is_kept(log: TrafficLog):
    log.append([replace(ROW, prompt_scrubbed="half \ud83d and \x00", key_name="caf\u00e9 \U0001f600"), replace(ROW, id="b", ts=2.0)])
    strange, ordinary = (logged.request for logged in log.window(2))
    assert (strange.prompt_scrubbed, strange.key_name) == ("half ? and \ufffd", "caf\u00e9 \U0001f600")
    assert ordinary.id == "b"
    log.feedback(Feedback("a", thumb="up", source="\ud83d"))
    assert log.window(1, since=0)[0].request.id == "b"


def test_texts_that_come_later_are_put_to_their_rows(log: TrafficLog):
    bare = replace(ROW, prompt_scrubbed=None, answer_scrubbed=None, prompt_hash="f0", answer_hash="f1", scrubber="")
    log.append([bare, replace(bare, id="b", ts=2.0)])
    log.write(scrubbed=[ROW])
    assert [logged.request for logged in log.window(2)] == [ROW, replace(bare, id="b", ts=2.0)]


def test_what_a_server_accounts_for_changes_with_its_rows_or_not_at_all(log: TrafficLog):
    log.write([ROW], dropped={"disk full": 2}, settled=Settled("server", 3))
    assert (log.settled("server"), log.settled("another"), log.dropped()) == (3, None, 2)
    with pytest.raises(LogFailed):
        log.write([ROW], dropped={"disk full": 5}, settled=Settled("server", 9))
    assert (log.settled("server"), log.dropped()) == (3, 2)


def test_requests_of_the_same_moment_stay_in_the_order_in_which_they_were_written(log: TrafficLog):
    ids = [f"{number * 7919 % 10_000:04d}" for number in range(40)]
    log.append([replace(ROW, id=each) for each in ids])
    assert [logged.request.id for logged in log.window(5)] == ids[-5:]


def test_use_cases_that_share_a_server_see_their_own_rows_only(server: str, tmp_path: Path):
    bank, shop = (on_server(server, tmp_path, use_case=name) for name in ("bank", "shop"))
    bank.append([ROW])
    shop.append([replace(ROW, id="b", use_case="shop"), replace(ROW, id="c", use_case="shop")])
    shop.drop(4, reason="disk full")
    with pytest.raises(UnknownRequest):
        bank.feedback(Feedback("b", corrected="fees"))
    shop.feedback(Feedback("b", corrected="fees"))
    assert (len(bank), bank.dropped(), bank.corrections()) == (1, 0, [])
    assert (len(shop), shop.dropped(), [row["id"] for row in shop.corrections()]) == (2, 4, ["b"])
    assert forget(bank, user_hash="ab12", name="ann") == Removed(("a",), 0)
    assert (len(bank), len(shop)) == (0, 2)
    shop.tables.metadata.drop_all(shop.database._engine)


def test_replicas_that_start_at_once_make_the_tables_once(server: str, tmp_path: Path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(6) as pool:
        logs = [on_server(server, tmp_path) for _ in range(6)]
        list(pool.map(lambda pair: pair[1].append([replace(ROW, id=str(pair[0]))]), enumerate(logs)))
    assert len(logs[0]) == 6
    logs[0].tables.metadata.drop_all(logs[0].database._engine)


def test_old_rows_are_deleted_with_their_feedback_and_counts_stay(log: TrafficLog):
    log.append([replace(ROW, id=str(number), ts=float(number)) for number in range(1200)])
    log.drop(3, reason="disk full")
    for request_id in ("0", "1", "1100"):
        log.feedback(Feedback(request_id, thumb="up"))
    found = expire(log, before=1000.0)
    assert (len(found.requests), found.feedback) == (1000, 2)
    assert ([logged.request.id for logged in log.window(1)], len(log), log.dropped()) == (["1199"], 200, 3)
    assert expire(log, before=1000.0) == Removed()


def test_a_user_is_forgotten_with_all_that_they_asked_and_said(log: TrafficLog):
    log.append([ROW, replace(ROW, id="b", user_hash="other"), replace(ROW, id="c")])
    log.feedback(Feedback("a", thumb="up", source="somebody"))
    log.feedback(Feedback("b", corrected="fees", source="ann"))
    log.feedback(Feedback("b", thumb="up", source="bob"))
    would = of_user(log, user_hash="ab12", name="ann")
    done = forget(log, user_hash="ab12", name="ann")
    assert (sorted(done.requests), done.feedback) == (sorted(would.requests), would.feedback) == (["a", "c"], 2)
    assert [(logged.request.id, logged.feedback) for logged in log.window(9)] == [("b", (Feedback("b", "up", None, "bob"),))]
    assert forget(log, user_hash="ab12", name="ann") == of_user(log, user_hash="ab12", name="ann") == Removed()


def test_what_is_forgotten_is_not_in_the_file_any_more_and_the_file_shrinks(file_log: TrafficLog):
    log, secret = file_log, "the card of Ann ends in 4711 "
    log.append([replace(ROW, id=str(number), prompt_scrubbed=secret * 20) for number in range(500)])
    log.append([replace(ROW, id="kept", user_hash="other")])
    before = log.path.stat().st_size
    forget(log, user_hash="ab12", name="ann")
    assert secret.encode() not in b"".join(path.read_bytes() for path in log.path.parent.iterdir())
    assert log.path.stat().st_size < before / 4
    assert len(log) == 1


def test_a_log_of_an_earlier_version_gives_room_back_too(file_log: TrafficLog):
    log = file_log
    log.append([replace(ROW, id=str(number), ts=float(number), prompt_scrubbed="x" * 2000) for number in range(300)])
    connection = sqlite3.connect(log.path, isolation_level=None)
    connection.executescript("PRAGMA journal_mode=DELETE; PRAGMA auto_vacuum=NONE; VACUUM")
    assert connection.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    connection.close()
    before = log.path.stat().st_size
    expire(log, before=290.0)
    assert log.path.stat().st_size < before / 4
    assert len(log) == 10


def test_forgetting_in_a_log_that_was_never_written_makes_no_file(file_log: TrafficLog):
    assert (forget(file_log, user_hash="x", name="ann"), expire(file_log, before=9.0)) == (Removed(), Removed())
    assert not file_log.path.exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [("", "is not set"), ("what:://ever", "holds no URL"), ("mysql://u:hunter2@h/d", "a URL of mysql"), ("sqlite:///x", "a URL of sqlite")],
)
def test_a_variable_without_a_good_url_is_named_and_its_value_is_not_shown(tmp_path: Path, value: str, says: str):
    with pytest.raises(NoDatabaseUrl, match=says) as error:
        on_server(value, tmp_path)
    assert "TEST_TRAFFIC" in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.skipif(not BINARIES, reason="needs PostgreSQL's server: apt-get install postgresql")
@pytest.mark.parametrize("kept_open", [False, True])
def test_a_server_that_goes_is_said_without_the_password_and_found_again_when_it_comes(tmp_path: Path, kept_open: bool):
    with postgres() as url:
        log = on_server(url, tmp_path, kept_open=kept_open)
        log.append([ROW])
        stop(Path(parse_qs(urlsplit(url).query)["host"][0]))
        with pytest.raises(LogFailed) as error:
            log.append([replace(ROW, id="b")])
        assert "hunter2" not in str(error.value)
        log.close()
