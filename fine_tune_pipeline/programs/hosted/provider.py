"""The provider's client, and what can go wrong there as errors that say what to do. The key never leaves this module."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# The client looks into a loaded `httpx` at every answer, and fails on one that another thread (the endpoint's scrubber) has half imported.
import httpx  # noqa: F401
import openai

from fine_tune_pipeline.programs.hosted.requests import HostedModel

TRIES = 6
"""Of a request that met a full or broken server: the client waits as `Retry-After` says, else 0.5 to 8 seconds, doubled each time."""

REQUEST_SECONDS = 120.0


class ProviderError(Exception):
    """The provider did not do what was asked."""


class NoKey(ProviderError):
    """The environment variable that should hold the key is empty."""


class KeyRefused(ProviderError):
    """The key is wrong, expired, or may not do this."""


class QuotaUsedUp(ProviderError):
    """The account has no money or no allowance left: waiting does not help."""


class TooBusy(ProviderError):
    """The provider asked for patience more often than we have."""


class ProviderDown(ProviderError):
    """No answer, or only errors of the server's own."""


class NotThere(ProviderError):
    """The provider does not know the model, job, or route."""


class RequestRefused(ProviderError):
    """The provider read the request and does not take it."""


def connect(hosted: HostedModel, *, tries: int = TRIES) -> openai.OpenAI:
    """A client; it is a context manager, and several threads may ask with it.

    Raises:
        NoKey: names the variable.
    """
    return openai.OpenAI(api_key=_key(hosted), base_url=hosted.base_url, max_retries=tries - 1, timeout=REQUEST_SECONDS)


@contextmanager
def told(hosted: HostedModel, doing: str) -> Iterator[None]:
    """Turn the client's errors into ours; what the provider said is kept, without the key.

    Args:
        doing: what was tried, such as `uploading train.jsonl`.
    """
    try:
        yield
    except openai.OpenAIError as error:
        kind, advice = _meaning(error, hosted)
        said = _without_key(str(error), hosted)
        raise kind(f"{hosted.base_url}: {doing}: {said}; {advice}") from error


def may_pass(error: openai.OpenAIError) -> bool:
    """Whether the same request may succeed later: a full or broken server, a lost connection."""
    if isinstance(error, openai.RateLimitError):
        return error.code != "insufficient_quota"
    return isinstance(error, openai.APIConnectionError | openai.InternalServerError)


def _meaning(error: openai.OpenAIError, hosted: HostedModel) -> tuple[type[ProviderError], str]:
    if isinstance(error, openai.AuthenticationError):
        return KeyRefused, f"set {hosted.api_key_variable} to a key that is valid and has not expired"
    if isinstance(error, openai.PermissionDeniedError):
        return KeyRefused, f"the key of {hosted.api_key_variable} may not do this: use one of a project that may"
    if isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota":
        return QuotaUsedUp, "add credit, or raise the limit of the project, then materialize again"
    if isinstance(error, openai.RateLimitError):
        return TooBusy, "all tries were used; materialize again later, or lower requests_at_once of the candidate"
    if isinstance(error, openai.NotFoundError):
        return NotThere, f"look at model ({hosted.model}) and base_url of the candidate"
    if isinstance(error, openai.APIConnectionError | openai.InternalServerError):
        return ProviderDown, "all tries were used; look whether base_url is right and the provider up, then materialize again"
    return RequestRefused, "change what it names"


def _without_key(text: str, hosted: HostedModel) -> str:
    return text.replace(_key(hosted), "[key]")


def _key(hosted: HostedModel) -> str:
    key = os.environ.get(hosted.api_key_variable, "").strip()
    if not key:
        raise NoKey(f"{hosted.base_url}: environment variable {hosted.api_key_variable} is empty; put the provider's key there")
    return key
