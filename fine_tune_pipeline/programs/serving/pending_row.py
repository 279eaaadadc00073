"""A request between its answer and the traffic log: what is known of it already, and its texts, which are with the scrubber."""

import json
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.artifacts.traffic import ServedRequest
from fine_tune_pipeline.artifacts.traffic_identity import keyed_hash
from fine_tune_pipeline.programs.serving.nested import mapped, strings
from fine_tune_pipeline.programs.serving.scrubbing_thread import ScrubbingThread


@dataclass(frozen=True)
class Answered:
    """A request as it was answered, with raw texts: it lives in memory only. A `closed` answer holds no free text to scrub."""

    row: ServedRequest
    asked: Asked
    answer: str
    user: str | None = None
    closed: bool = False


class PendingRow:
    """One row of the log, bare until the scrubber is done with its texts."""

    def __init__(self, answered: Answered, *, scrubbing: ScrubbingThread, salt: bytes, scrub: bool = True) -> None:
        """
        Args:
            salt: key of the hashes.
            scrub: whether the texts are scrubbed at all; else the row stays bare.
        """
        self._answered = answered
        self._salt = salt
        self._scrubbing = scrubbing
        self._before = answered.asked.beside()
        free = [] if answered.closed else [answered.answer]
        self._texts = list(dict.fromkeys([answered.asked.prompt, *free, *strings(self._before)]))
        self._cleaned: Sequence[Future[list[str]]] = [scrubbing.clean(self._texts)] if scrub else []

    @property
    def scrubbed(self) -> bool:
        """Whether the scrubber is done, well or not."""
        if any(not future.done() for future in self._cleaned):
            return False
        if len(self._cleaned) == 1 and len(self._texts) > 1 and self._cleaned[0].exception() is not None:
            # Which one it can't do is found text by text: the others can be kept.
            self._cleaned = [self._scrubbing.clean([text]) for text in self._texts]
            return False
        return bool(self._cleaned)

    @property
    def expects_texts(self) -> bool:
        """Whether the scrubber has them at all."""
        return bool(self._cleaned)

    @property
    def waits_for(self) -> Sequence["Future[list[str]]"]:
        """What the scrubber still works on."""
        return [future for future in self._cleaned if not future.done()]

    @property
    def problem(self) -> str | None:
        """What the scrubber failed with; its message may quote the text, so only the type is told."""
        failed = next((error for future in self._cleaned if (error := future.exception()) is not None), None)
        return None if failed is None else f"traffic log: scrubbing failed ({type(failed).__name__}), only lengths and hashes are kept"

    @property
    def bare(self) -> ServedRequest:
        """Without any text but an answer out of a closed list."""
        return self._row(prompt=None, before=None, answer=self._answered.answer if self._answered.closed else None, scrubber="")

    def whole(self) -> ServedRequest:
        """With the texts that could be scrubbed; asked for once `scrubbed`."""
        clean = self._clean()
        before = self._before_as_json(clean)
        # Without the turns before it, a prompt would be taken for a question of its own.
        prompt = None if before is None else clean.get(self._answered.asked.prompt)
        answer = self._answered.answer if self._answered.closed else clean.get(self._answered.answer)
        return self._row(prompt=prompt, before=before or None, answer=answer, scrubber=self._scrubbing.name)

    def _row(self, *, prompt: str | None, before: str | None, answer: str | None, scrubber: str) -> ServedRequest:
        """Of a text that is not kept there is a hash."""
        asked, said, user = self._answered.asked.prompt, self._answered.answer, self._answered.user
        return replace(
            self._answered.row,
            prompt_scrubbed=prompt,
            before_scrubbed=before,
            answer_scrubbed=answer,
            prompt_characters=len(asked),
            answer_characters=len(said),
            prompt_hash=self._hash(asked) if prompt is None else None,
            answer_hash=self._hash(said) if answer is None else None,
            user_hash=None if user is None else self._hash(user),
            scrubber=scrubber,
        )

    def _clean(self) -> dict[str, str]:
        """Text -> the same without personal data, of those that the scrubber could do."""
        parts = [self._texts] if len(self._cleaned) == 1 else [[text] for text in self._texts]
        done = [(part, future.result()) for part, future in zip(parts, self._cleaned, strict=True) if future.exception() is None]
        return {text: clean for part, cleaned in done for text, clean in zip(part, cleaned, strict=True)}

    def _before_as_json(self, clean: dict[str, str]) -> str | None:
        """What stood before the prompt, empty when nothing did; None when some of it could not be scrubbed."""
        if not self._before:
            return ""
        whole = clean.keys() >= set(strings(self._before))
        return _json(mapped(self._before, clean)) if whole else None

    def _hash(self, text: str) -> str:
        return keyed_hash(text, salt=self._salt)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
