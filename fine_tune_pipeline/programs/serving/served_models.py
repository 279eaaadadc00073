"""The base model and the versions beside it, each under its served name. Only the model thread may call what is here."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from peft import PeftConfig, PeftModel, PeftModelForCausalLM, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.programs.answering import answering
from fine_tune_pipeline.programs.decoding import Generated, keeps_keys_and_values
from fine_tune_pipeline.programs.decoding_requests import Decoding, JsonDecoding
from fine_tune_pipeline.programs.json_guides import GuideMissing, JsonGuide, UnsupportedSchema, UnsupportedTokenizer, json_guide
from fine_tune_pipeline.programs.models import is_peft_folder, load_model, load_tokenizer, weight_files
from fine_tune_pipeline.programs.requests import Precision, PromptFormat
from fine_tune_pipeline.programs.serving.kept_prefixes import KeptPrefixes
from fine_tune_pipeline.programs.serving.model_thread import MorePrompts
from fine_tune_pipeline.programs.serving.wishes import Ability, UnsupportedWish, Wanted
from fine_tune_pipeline.programs.under_way import Newcomers
from fine_tune_pipeline.programs.written_rows import Draw, Manner, tell_whole

SCHEMAS = 64
"""Schemas of clients that are kept ready: reading one takes milliseconds."""


class UnusableAdapter(ValueError):
    """The files are not an adapter of this base model; nothing of them was loaded."""


class UnknownModel(LookupError):
    """No version with this name is loaded."""


class _Rows(NamedTuple):
    """Prompts and the manner of each."""

    prompts: "list[Sequence[int] | Wanted]"
    manners: list[Manner]

    def add(self, prompt: "Sequence[int] | Wanted", manner: Manner) -> None:
        self.prompts.append(prompt)
        self.manners.append(manner)


class ServedModels:
    """One base model in memory; PEFT adapters share it, whole models (technique `full`) stand beside it."""

    def __init__(
        self, folder: Path, *, base_name: str, format: PromptFormat, dtype: Precision, device: str, decoding: Decoding | None = None
    ) -> None:
        """
        Args:
            decoding: what answers can be, as in the evaluation.

        Raises:
            GuideMissing, UnsupportedSchema, UnsupportedTokenizer: answers cannot be kept inside the schema here.
        """
        self._base_name = base_name
        self._dtype: Precision = dtype
        self._device = device
        self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(folder)
        base = load_model(folder, dtype=dtype, device=device)
        assert isinstance(base, PreTrainedModel)
        self._base: PreTrainedModel = base
        self._way = answering(decoding, tokenizer=self._tokenizer, config=base.config, format=format)
        # As training writes JSON; where it writes none, as most programs do.
        self._separators = (decoding.separators if isinstance(decoding, JsonDecoding) else None) or (", ", ": ")
        words = base.config.get_text_config().vocab_size
        self._guide = lru_cache(SCHEMAS)(lambda wanted: _guide(wanted, tokenizer=self._tokenizer, format=format, words=words))
        self._prefixes = KeptPrefixes()
        # Asked now: adapters are laid into the base, and would count later.
        self._parameters: int = base.num_parameters()
        self._adapted: PeftModel | None = None
        self._whole: dict[str, PreTrainedModel] = {}

    @property
    def context_tokens(self) -> int:
        """What the base model can look back on: prompt and answer together."""
        return self._base.config.get_text_config().max_position_embeddings

    @property
    def ability(self) -> Ability:
        """What its answers are."""
        if self._way.tree is not None:
            return "labels"
        return "free" if self._way.guide is None else "json"

    @property
    def names(self) -> list[str]:
        """Loaded versions."""
        return [*(self._adapted.peft_config if self._adapted is not None else ()), *self._whole]

    def load(self, name: str, folder: Path) -> None:
        """Load a version beside the others.

        Raises:
            UnusableAdapter: the files are damaged or belong to another model; what was loaded before is untouched.
        """
        if name in self.names:
            return
        try:
            if is_peft_folder(folder):
                self._load_adapter(name, folder)
            else:
                self._load_whole(name, folder)
        except (RuntimeError, ValueError, KeyError, IndexError, TypeError, OSError, SafetensorError) as error:
            self.unload(name)
            raise UnusableAdapter(f"{folder}: not a version of this base model ({type(error).__name__}: {error})") from error

    def unload(self, name: str) -> None:
        """Free what a version holds; unknown names are fine."""
        self._prefixes.forget(name)
        self._whole.pop(name, None)
        if self._adapted is None or name not in self._adapted.peft_config:
            return
        others = [other for other in self._adapted.peft_config if other != name]
        if others:
            self._adapted.set_adapter(others[0], inference_mode=True)
            self._adapted.delete_adapter(name)
        else:
            base = self._adapted.unload()
            assert isinstance(base, PreTrainedModel)
            self._base, self._adapted = base, None

    def generate(self, name: str, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Generated]:
        """Answers of one version (or of the base model) as evaluation would give them.

        Raises:
            UnknownModel: it is not loaded.
        """
        rows = _Rows(list(prompts), [self._manner(prompt, max_new_tokens) for prompt in prompts])
        return self._written(name, rows, max_new_tokens, join=None)

    def serve(self, name: str, prompts: Sequence[Wanted], max_new_tokens: int, more: MorePrompts) -> list[Generated | Exception]:
        """Answers as clients wish them; a wish that cannot be fulfilled is the answer of its own row.

        Args:
            more: gives what joins the batch while it is written.

        Raises:
            UnknownModel: it is not loaded.
        """
        found: list[Generated | Exception | None] = []

        def rows(wanted: Sequence[Wanted]) -> _Rows:
            good = _Rows([], [])
            for prompt in wanted:
                try:
                    good.add(prompt, self._manner(prompt, max_new_tokens))
                    found.append(None)
                except UnsupportedWish as error:
                    found.append(error)
            return good

        first = rows(prompts)
        while not first.prompts and (others := more(0)):
            first = rows(others)
        if first.prompts:
            joins = self._way.tree is None and keeps_keys_and_values(self._base)
            answers = iter(self._written(name, first, max_new_tokens, join=(lambda open_rows: rows(more(open_rows))) if joins else None))
            return [next(answers) if answer is None else answer for answer in found]
        return [answer for answer in found if answer is not None]

    def _written(self, name: str, rows: "_Rows", max_new_tokens: int, *, join: "Callable[[int], _Rows] | None") -> list[Generated]:
        model = self.model_of(name)
        as_base = model.disable_adapter() if isinstance(model, PeftModel) and name == self._base_name else nullcontext()
        ids = [list(prompt) for prompt in rows.prompts]

        def joining(open_rows: int) -> Newcomers | None:
            assert join is not None
            new = join(open_rows)
            if not new.prompts:
                return None
            tokens = [list(prompt) for prompt in new.prompts]
            return Newcomers(tokens, new.manners, self._prefixes.fitting(model, name, tokens))

        with as_base:
            prefix = self._prefixes.fitting(model, name, ids)
            if self._way.tree is None:
                joins = None if join is None else joining
                return self._way.answers(model, ids, max_new_tokens=max_new_tokens, prefix=prefix, manners=rows.manners, join=joins)
            answers = self._way.answers(model, ids, max_new_tokens=max_new_tokens, prefix=prefix, manners=rows.manners)
        for manner, answer in zip(rows.manners, answers, strict=True):
            if manner.ear is not None:
                tell_whole(manner.ear, answer)
        return answers

    def _manner(self, prompt: Sequence[int] | Wanted, max_new_tokens: int) -> Manner:
        """How an answer is written: as evaluation does, and as its client wishes.

        Raises:
            UnsupportedWish: a schema that cannot be kept.
        """
        if not isinstance(prompt, Wanted):
            return Manner(max_new_tokens, stop=self._way.stop, guide=self._way.guide)
        wish, drawn, guide = prompt.wish, prompt.wish.sampling, self._way.guide
        if wish.json is not None:
            guide = self._guide(wish.json.model_copy(update={"separators": self._separators}).model_dump_json())
        return Manner(
            prompt.max_new_tokens,
            stop=(*self._way.stop, *wish.stop),
            guide=guide,
            draw=None if drawn is None else Draw(temperature=drawn.temperature, top_p=drawn.top_p, seed=drawn.seed),
            scores=wish.top_logprobs,
            ear=prompt.heard,
        )

    def model_of(self, name: str) -> PreTrainedModel | PeftModel:
        """What answers as this version; for the base model, where there are adapters, they must be disabled around its use.

        Raises:
            UnknownModel: it is not loaded.
        """
        if name == self._base_name:
            return self._adapted or self._base
        if name in self._whole:
            return self._whole[name]
        if self._adapted is None or name not in self._adapted.peft_config:
            raise UnknownModel(f"{name}: not loaded; loaded are {', '.join(self.names) or 'none'}")
        if self._adapted.active_adapter != name:
            self._adapted.set_adapter(name, inference_mode=True)
        return self._adapted

    def _load_whole(self, name: str, folder: Path) -> None:
        model = load_model(folder, dtype=self._dtype, device=self._device)
        assert isinstance(model, PreTrainedModel)
        if model.num_parameters() != self._parameters:
            raise ValueError(f"it has {model.num_parameters():,} parameters, the base model {self._parameters:,}")
        self._whole[name] = model

    def _load_adapter(self, name: str, folder: Path) -> None:
        stored = _stored_names(folder)
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        if self._adapted is None:
            self._adapted = PeftModelForCausalLM(self._base, config, adapter_name=name)
        mapping = getattr(self._base, "_checkpoint_conversion_mapping", {})
        self._adapted.load_adapter(str(folder), name, torch_device=self._device, key_mapping=mapping)
        self._refuse_other_names(name, stored)
        self._adapted.eval()

    def _refuse_other_names(self, name: str, stored: set[str]) -> None:
        """PEFT only warns when weights of the file find no place, or a place finds no weights: the adapter would do nothing, silently."""
        assert self._adapted is not None
        wanted = set(get_peft_model_state_dict(self._adapted, adapter_name=name, save_embedding_layers=False))
        if wanted != stored:
            missing, left_over = sorted(wanted - stored), sorted(stored - wanted)
            raise ValueError(f"{len(missing)} weights are missing {missing[:2]}, {len(left_over)} have no place {left_over[:2]}")


def _stored_names(folder: Path) -> set[str]:
    names: set[str] = set()
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as stored:
            names.update(stored.keys())
    return names


def _guide(wanted: str, *, tokenizer: PreTrainedTokenizerBase, format: PromptFormat, words: int) -> JsonGuide:
    """What keeps answers inside the schema of a client.

    Args:
        wanted: a `JsonDecoding` as JSON.

    Raises:
        UnsupportedWish: it cannot be kept here.
    """
    try:
        return json_guide(JsonDecoding.model_validate_json(wanted), tokenizer=tokenizer, format=format, words=words)
    except UnsupportedSchema as error:
        raise UnsupportedWish(f"response_format: this schema cannot be kept while an answer is written: {error.said}") from error
    except (GuideMissing, UnsupportedTokenizer) as error:
        raise UnsupportedWish("response_format: this server cannot keep answers inside a schema; leave it out") from error
