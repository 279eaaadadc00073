"""Queries of a database: the same rows for the same content, parameters as values, errors that quote no secret."""

import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest

from fine_tune_pipeline.guide.dataset.sources.queries import FailedQuery, NoDatabaseUrl
from fine_tune_pipeline.spec.sources import SqlSource
from fine_tune_pipeline_tests.guide.dataset.sources.reading import columns, open_at


def database(path: Path, rows: list[tuple[int, str]]) -> str:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE message (id INTEGER, body TEXT)")
        connection.executemany("INSERT INTO message VALUES (?, ?)", rows)
    return f"sqlite:///{path}"


def sql(query: str = "SELECT id, body FROM message", **parameters: str | int) -> SqlSource:
    return SqlSource(type="sql", url_variable="TEST_DATABASE", query=query, parameters=parameters)


def test_sql_rows_are_the_same_whatever_order_the_database_gives_them_in(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "one.db", [(1, "a"), (2, "b")]))
    one = open_at(tmp_path, sql())
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "two.db", [(2, "b"), (1, "a")]))
    two = open_at(tmp_path, sql())
    assert columns(one) == columns(two) == [{"body": "a", "id": 1}, {"body": "b", "id": 2}]
    assert one.sha256 == two.sha256


def test_sql_content_decides_the_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "one.db", [(1, "a")]))
    before = open_at(tmp_path, sql()).sha256
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "two.db", [(1, "A")]))
    assert open_at(tmp_path, sql()).sha256 != before


def test_parameters_reach_the_database_as_values(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "one.db", [(1, "a"), (2, "it's; DROP TABLE message"), (3, "c")]))
    query = "SELECT id FROM message WHERE body = :body OR id >= :least"
    assert columns(open_at(tmp_path, sql(query, body="it's; DROP TABLE message", least=3))) == [{"id": 2}, {"id": 3}]


@pytest.mark.parametrize(
    ("query", "parameters", "said"),
    [
        ("SELECT id FROM message WHERE id = :id", {}, "got none, want the :names of the query, id"),
        ("SELECT id FROM message", {"id": 1}, "got id, want the :names of the query, none"),
        ("SELECT id FROM message WHERE id = :id", {"idd": 1}, "got idd, want the :names of the query, id"),
    ],
)
def test_parameters_that_are_not_those_of_the_query_are_refused(tmp_path, monkeypatch, query, parameters, said):
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "one.db", [(1, "a")]))
    with pytest.raises(FailedQuery, match=rf"dataset\.sources\[0\]\.parameters: {said}"):
        open_at(tmp_path, sql(query, **parameters))


def test_an_unset_url_variable_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_DATABASE", raising=False)
    with pytest.raises(NoDatabaseUrl, match=r"dataset\.sources\[0\]\.url_variable: TEST_DATABASE is not set"):
        open_at(tmp_path, sql())


@pytest.mark.parametrize("url", ["hunter2", "nodialect://user:hunter2@host/db", "sqlite://user:hunter2@host/db"])
def test_a_useless_url_is_refused_without_quoting_it(tmp_path, monkeypatch, url):
    monkeypatch.setenv("TEST_DATABASE", url)
    with pytest.raises((NoDatabaseUrl, FailedQuery)) as error:
        open_at(tmp_path, sql())
    assert "hunter2" not in str(error.value)
    assert error.value.__suppress_context__


def test_a_query_that_the_database_refuses_is_quoted_with_its_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "one.db", []))
    with pytest.raises(FailedQuery, match=r"no such column: absent.*SELECT absent"):
        open_at(tmp_path, sql("SELECT absent FROM message"))


def test_rows_of_a_query_are_not_in_memory_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "one.db", [(number, f"{number} " + "x" * 1000) for number in range(10_000)]))
    tracemalloc.start()
    found = open_at(tmp_path, sql())
    rows = sum(1 for _ in found.rows())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == 10_000
    assert peak < 5_000_000


def test_the_columns_of_a_query_stay_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "one.db", [(1, "a")]))
    [row] = open_at(tmp_path, sql("SELECT body, id FROM message")).rows()
    assert list(row.columns or ()) == ["body", "id"]
