"""Tells somebody of a report, once: JSON to an address that the environment holds. Whether it arrives never changes the report."""

import os
from collections.abc import Mapping
from typing import Any

TIMEOUT_SECONDS = 10.0


def notify(variable: str | None, body: Mapping[str, Any]) -> str | None:
    """POST the body to the URL in the environment variable; what came of it, in a few words. None when there is nobody to tell.

    Neither the address nor what its server says is told: both may hold a secret.
    """
    if variable is None:
        return None
    url = os.environ.get(variable)
    if not url:
        return f"not sent: {variable} is not set where this runs"
    import httpx

    try:
        answered = httpx.post(url, json=dict(body), timeout=TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        return f"not sent: the address in {variable} does not answer ({type(error).__name__})"
    if answered.is_success:
        return f"sent: {answered.status_code}"
    return f"refused: the address in {variable} answered {answered.status_code}"
