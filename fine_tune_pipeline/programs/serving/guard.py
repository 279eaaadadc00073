"""Personal data between client and model, as `deployment.guard` wants it: refused or masked on the way in, masked on the way out.

With the scrubber of the traffic log, whose tags (`<PERSON>`) are those that step 3 puts into training examples by default. A text that
the scrubber fails on does not pass.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.programs.serving.nested import mapped, strings
from fine_tune_pipeline.programs.serving.scrubbing_thread import ScrubbingThread
from fine_tune_pipeline.spec.traffic import GuardSpec

_TAG = re.compile(r"<([A-Z][A-Z0-9_]*)>")


class PersonalData(ValueError):
    """The question holds personal data, and this endpoint takes none."""


class NotChecked(OSError):
    """The scrubber failed on a text, so it does not pass."""


class Guard:
    """What stands between the clients of one endpoint and its model."""

    def __init__(self, spec: GuardSpec, *, scrubbing: ScrubbingThread) -> None:
        self._spec = spec
        self._scrubbing = scrubbing

    @property
    def looks_at_answers(self) -> bool:
        """Whether an answer is known only when it is whole."""
        return self._spec.pii_out != "off"

    async def inward(self, asked: Asked, system: str) -> tuple[Asked, str]:
        """What the model is asked: all that people wrote, without personal data. What tools there are stays as it is.

        Raises:
            PersonalData: says of which kinds, never what.
            NotChecked: nothing is known of a text.
        """
        if self._spec.pii_in == "off":
            return asked, system
        texts = list(dict.fromkeys(text for text in (system, asked.prompt, *strings(list(asked.history))) if text))
        clean = dict(zip(texts, await self._cleaned(texts), strict=True))
        if self._spec.pii_in == "refuse":
            _refuse(clean)
            return asked, system
        history = mapped(list(asked.history), clean)
        return replace(asked, prompt=clean.get(asked.prompt, asked.prompt), history=history), clean.get(system, system)

    async def outward(self, text: str, *, closed: bool) -> str:
        """The answer as it leaves.

        Args:
            closed: it is out of a closed list, so it can hold no personal data.

        Raises:
            NotChecked: nothing is known of it.
        """
        if self._spec.pii_out == "off" or closed or not text:
            return text
        return (await self._cleaned([text]))[0]

    async def _cleaned(self, texts: Sequence[str]) -> list[str]:
        done = self._scrubbing.clean_now(texts)
        await asyncio.wait({waiting := asyncio.wrap_future(done)})
        error = waiting.exception()
        if error is None:
            return waiting.result()
        # Its message may quote the text, so only the type is told.
        raise NotChecked(f"the text could not be searched for personal data ({type(error).__name__}), so it was not let through")


def _refuse(clean: dict[str, str]) -> None:
    found: Counter[str] = Counter()
    for text, without in clean.items():
        if text != without:
            found += Counter(_TAG.findall(without)) - Counter(_TAG.findall(text))
    if found:
        kinds = ", ".join(f"{number} x {kind}" for kind, number in sorted(found.items()))
        raise PersonalData(f"the question holds personal data ({kinds}); this endpoint takes none, so leave it out")
    if any(text != without for text, without in clean.items()):
        raise PersonalData("the question holds personal data; this endpoint takes none, so leave it out")
