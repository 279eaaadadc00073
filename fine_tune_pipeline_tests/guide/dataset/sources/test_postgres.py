"""SQL sources against a real server."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import create_engine, text

from fine_tune_pipeline.guide.dataset.sources.opened import Opened, opened
from fine_tune_pipeline.guide.dataset.sources.queries import FETCHED_ROWS, FailedQuery
from fine_tune_pipeline.spec.sources import SqlSource
from fine_tune_pipeline_tests.guide.dataset.postgres import BINARIES, postgres, stop

pytestmark = pytest.mark.skipif(not BINARIES, reason="needs PostgreSQL's server: apt-get install postgresql")

ROWS = 3 * FETCHED_ROWS + 1


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with postgres() as url:
        monkeypatch.setenv("TEST_DATABASE", url)
        run(
            url,
            "CREATE TABLE message (id int, body text, day date, price numeric(6,2), extra jsonb, words text[], raw bytea)",
            f"INSERT INTO message SELECT n, 'row ' || n, date '2026-01-02', 1.50, '{{\"a\": [1]}}', '{{x,y}}', '\\x01ff' "
            f"FROM generate_series(1, {ROWS}) AS n",
        )
        yield url


def run(url: str, *statements: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement.replace(":", "\\:")))
    engine.dispose()


def sql(query: str, **parameters: int) -> Opened:
    source = SqlSource(type="sql", url_variable="TEST_DATABASE", query=query, parameters=parameters)
    return opened(source, locate=str, field="dataset.sources[0]")


@pytest.mark.usefixtures("server")
def test_values_become_what_json_can_hold_and_no_row_is_lost():
    rows = [row.columns for row in sql("SELECT * FROM message WHERE id <= :most", most=ROWS).rows()]
    assert sorted(row["id"] for row in rows if row is not None) == list(range(1, ROWS + 1))
    wanted = {"id": 1, "body": "row 1", "day": "2026-01-02", "price": "1.50", "extra": {"a": [1]}, "words": ["x", "y"], "raw": "01ff"}
    assert wanted in rows


def test_a_changed_table_is_said_with_the_servers_own_words(server: str):
    run(server, "ALTER TABLE message DROP COLUMN body")
    with pytest.raises(FailedQuery, match=r'dataset\.sources\[0\]\.query: .*column "body" does not exist'):
        sql("SELECT id, body FROM message")


def test_a_server_that_is_down_is_said_without_the_password(server: str):
    stop(Path(parse_qs(urlsplit(server).query)["host"][0]))
    with pytest.raises(FailedQuery, match="TEST_DATABASE refused it") as error:
        sql("SELECT id FROM message")
    assert "hunter2" not in str(error.value)
