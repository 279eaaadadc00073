"""The endpoint's models when they stay at their provider: the base and the tuned ones, each under its served name."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import Asked, Message
from fine_tune_pipeline.programs.hosted.chat_rows import likely_tokens, messages
from fine_tune_pipeline.programs.hosted.predict import Reply, ask, body_of
from fine_tune_pipeline.programs.hosted.provider import NoKey, ProviderError, RequestRefused, TooBusy, connect
from fine_tune_pipeline.programs.hosted.requests import HostedModel, read_hosted
from fine_tune_pipeline.programs.hosted.upstream import UpstreamBusy, UpstreamFailed, UpstreamNotSetUp, UpstreamRefused
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import PromptFormat

TRIES = 2
"""Of one request: its client waits, so it is rather told soon."""


class UnusableTunedModel(ValueError):
    """The folder does not name a tuned model of this provider."""


@dataclass(frozen=True)
class RemotePrompt:
    """A prompt as it is sent; as long as it has tokens, by estimate."""

    turns: Sequence[Message]
    tools: Sequence[Any]

    def __len__(self) -> int:
        return likely_tokens(self.turns)


def remote_prompts(format: PromptFormat) -> Callable[[Asked, str], RemotePrompt]:
    """(what is asked, system message) -> the prompt, as training and evaluation wrote it."""

    def prompt(asked: Asked, system: str) -> RemotePrompt:
        used = format.model_copy(update={"instruction": system}) if system else format
        return RemotePrompt(turns=messages(asked, format=used), tools=asked.tools)

    return prompt


class HostedModels:
    """Asks the provider for a whole batch at once; one request that fails takes no other with it."""

    def __init__(self, hosted: HostedModel, *, base_name: str) -> None:
        """
        Raises:
            UpstreamNotSetUp: there is no key in the environment.
        """
        try:
            self._client = connect(hosted, tries=TRIES)
        except NoKey as error:
            raise UpstreamNotSetUp(str(error)) from error
        self._hosted = hosted
        self._served = {base_name: hosted}
        self._say = Reporter(None).log

    @property
    def context_tokens(self) -> int:
        """Prompt and answer together."""
        return self._hosted.context_tokens

    def load(self, name: str, folder: Path) -> None:
        """Serve a tuned model under this name.

        Raises:
            UnusableTunedModel: the files do not name one of this provider.
        """
        tuned = read_hosted(folder)
        if tuned is None or tuned.base_url != self._hosted.base_url:
            raise UnusableTunedModel(f"{folder}: names no model of {self._hosted.base_url}")
        self._served[name] = tuned

    def unload(self, name: str) -> None:
        """Stop serving it; unknown names are fine."""
        self._served.pop(name, None)

    def generate(self, name: str, prompts: Sequence[RemotePrompt], max_new_tokens: int) -> list[Reply | Exception]:
        """Answers in the order of the prompts; what failed is the error of its own request."""
        model = self._served[name]

        def answered(prompt: RemotePrompt) -> Reply | Exception:
            try:
                return ask(self._client, model, body_of(model, prompt.turns, tools=prompt.tools, max_new_tokens=max_new_tokens))
            except ProviderError as error:
                self._say(f"{type(error).__name__}: {error}")
                return _for_clients(error)

        with ThreadPoolExecutor(max_workers=model.requests_at_once) as pool:
            return list(pool.map(answered, prompts))


def _for_clients(error: ProviderError) -> Exception:
    """Who asks learns what to do; account and address of the provider stay in the server's log."""
    if isinstance(error, TooBusy):
        return UpstreamBusy("the model's provider asks for patience; try again later")
    if isinstance(error, RequestRefused):
        return UpstreamRefused("the model's provider does not take this request; change its text")
    return UpstreamFailed("the model's provider does not answer; the server's log says more")
