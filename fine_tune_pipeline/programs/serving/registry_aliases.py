"""What aliases mean, as the model registry says, asked without MLflow, whose import takes 155 MB for one small question.

A tracking server is asked over its REST API, a database by the table that MLflow keeps aliases in. `test_registry_aliases.py` holds both
against MLflow's own client.
"""

import base64
import http.client
import json
import os
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, get_args

from fine_tune_pipeline.programs.serving.contract import Alias

TIMEOUT_SECONDS = 5.0

_QUERY = "SELECT alias, version FROM registered_model_aliases WHERE name = :name"

Aliases = dict[Alias, int]
Ask = Callable[[], Aliases]


class RegistrySilent(Exception):
    """The model registry does not say what its aliases mean; the message names the address without its password, and the cause."""


def asker(uri: str, use_case: str) -> Ask:
    """What asks the registry at this address, once a call.

    Raises, when it is called:
        RegistrySilent: it does not answer, does not know the model, or speaks otherwise.
    """
    if uri.startswith(("http://", "https://")):
        return lambda: _over_rest(uri, use_case)
    if uri.startswith("sqlite:///"):
        return lambda: _from_sqlite(uri, use_case)
    return _of_database(uri, use_case)


def _over_rest(uri: str, use_case: str) -> Aliases:
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/registered-models/get?{urllib.parse.urlencode({'name': use_case})}"
    request = urllib.request.Request(address, headers=_credentials())
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            found = json.loads(response.read())["registered_model"].get("aliases", [])
            return _ours({one["alias"]: one["version"] for one in found})
    except urllib.error.HTTPError as error:
        with error:
            raise RegistrySilent(f"{shown(uri)}: HTTP {error.code} for the model {use_case}") from error
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistrySilent(f"{shown(uri)}: {type(error).__name__}: {getattr(error, 'reason', None) or error}") from error


def _credentials() -> dict[str, str]:
    """By the variables of MLflow's own client."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user is None or password is None:
        return {}
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def _from_sqlite(uri: str, use_case: str) -> Aliases:
    # As SQLAlchemy reads it: three slashes and a path, so four where the path is absolute.
    path = urllib.parse.quote(uri.removeprefix("sqlite:///").split("?")[0])
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=TIMEOUT_SECONDS)) as connection:
            return _ours(dict(connection.execute(_QUERY, {"name": use_case}).fetchall()))
    except sqlite3.Error as error:
        raise RegistrySilent(f"{uri}: {type(error).__name__}: {error}") from error


def _of_database(uri: str, use_case: str) -> Ask:
    """Any database that SQLAlchemy speaks with; it is imported when the first question is asked."""
    engines: list[Any] = []

    def ask() -> Aliases:
        from sqlalchemy import create_engine, text
        from sqlalchemy.exc import SQLAlchemyError

        try:
            if not engines:
                engines.append(create_engine(uri, pool_pre_ping=True, pool_size=1))
            with engines[0].connect() as connection:
                return _ours(dict(map(tuple, connection.execute(text(_QUERY), {"name": use_case}))))
        except (SQLAlchemyError, ImportError) as error:
            # What SQLAlchemy says may quote the address with its password.
            raise RegistrySilent(f"{shown(uri)}: {type(error).__name__}") from error

    return ask


def _ours(found: Mapping[str, Any]) -> Aliases:
    """Of all aliases of a model, those that mean something here."""
    return {alias: int(found[alias]) for alias in get_args(Alias) if alias in found}


def shown(uri: str) -> str:
    """An address without user and password."""
    parts = urllib.parse.urlsplit(uri)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
