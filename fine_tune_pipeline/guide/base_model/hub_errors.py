"""What the Hub's client raises, named by its cause, with what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fine_tune_pipeline.guide.base_model.model_files import UnusableModel
from fine_tune_pipeline.guide.base_model.reaching import NoAnswer, writing


class NoSuchRepository(UnusableModel):
    """The hub has no such repository, or does not show it."""


class NoSuchRevision(UnusableModel):
    """The repository has no such commit."""


class GatedRepository(UnusableModel):
    """The repository's owner asks for consent first."""


class HubUnreachable(NoAnswer):
    """The hub does not answer, or the connection broke."""


class TokenRefused(NoAnswer):
    """The hub does not accept the token."""


class DamagedDownload(NoAnswer):
    """A file came with other content than the hub lists."""


@contextmanager
def hub_errors(repo: str, revision: str) -> Iterator[None]:
    """Name what the client raises.

    Raises:
        NoSuchRepository, NoSuchRevision, GatedRepository: about the model.
        HubUnreachable, TokenRefused, DiskFull, NotWritable: about this machine and the way to the hub.
    """
    from httpx2 import HTTPError
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    with writing(Path(constants.HF_HUB_CACHE), variable="HF_HUB_CACHE"):
        try:
            yield
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, HTTPError) as error:
            raise _named(error, repo, revision) from error
        except OSError as error:
            # The client's own, about a file whose size is not the announced one, has no number.
            if error.errno is not None:
                raise
            raise _unreachable(error, repo, revision) from error


def _named(error: Exception, repo: str, revision: str) -> Exception:
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import DisabledRepoError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, RevisionNotFoundError):
        return NoSuchRevision(f"{repo}: no commit {revision} there; take one of {page}/commits/main")
    if isinstance(error, GatedRepoError) and get_token() is None:
        return GatedRepository(
            f"{repo}: its owner asks for consent: accept the terms at {page}, then set HF_TOKEN to a token of that account "
            f"({constants.ENDPOINT}/settings/tokens)"
        )
    if isinstance(error, GatedRepoError):
        return GatedRepository(
            f"{repo}: the account of HF_TOKEN has not been let in: accept the terms at {page}, and wait if its owner looks at each request"
        )
    if isinstance(error, DisabledRepoError):
        return NoSuchRepository(f"{repo}: {constants.ENDPOINT} has disabled it; choose another model")
    if isinstance(error, RepositoryNotFoundError):
        return NoSuchRepository(
            f"{repo}: not on {constants.ENDPOINT}, or private: check organisation/name, or set HF_TOKEN to a token that may read it"
        )
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return TokenRefused(
            f"{repo}: {constants.ENDPOINT} refuses the token (HTTP {error.response.status_code}); it may have expired: set HF_TOKEN to a "
            f"new one from {constants.ENDPOINT}/settings/tokens"
        )
    return _unreachable(error, repo, revision)


def _unreachable(error: Exception, repo: str, revision: str) -> HubUnreachable:
    from huggingface_hub import constants

    cause = error.__cause__ or error
    said = str(cause).strip().split("\n")[0] or type(cause).__name__
    return HubUnreachable(
        f"{repo}@{revision}: {constants.ENDPOINT} could not be read ({said}); finished files are kept: run again when it answers, or set "
        f"HF_ENDPOINT to a mirror, or fetch it elsewhere and give its folder: {{type: local, …}}"
    )
