"""How weights become a model: safetensors only, from a local folder, without remote code. The one place for all programs."""

import gc
import hashlib
import resource
import sys
import time
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.programs.hosted.requests import read_hosted
from fine_tune_pipeline.programs.requests import Precision
from fine_tune_pipeline.programs.tokenizer_fit import refuse_foreign

if TYPE_CHECKING:
    from peft import PeftModel

_PICKLED = ("pytorch_model*.bin", "adapter_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
"""Weights that run code when they are read. `training_args.bin`, which trainers leave behind, is never read and not among them."""

_PAD_NAMES = ("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>", "<|padding|>", "<|fim_pad|>", "<|vision_pad|>", "<unk>")


TOKEN_ROWS = "trainable_tokens"
"""In the names of rows of the embedding that learned beside an adapter."""


class PickledWeights(ValueError):
    """The folder holds weights that execute code when loaded, and no safetensors."""


class NoWeights(FileNotFoundError):
    """The folder holds no safetensors file, or is not there."""


class IncompleteWeights(ValueError):
    """Some weights of the architecture are not in the files; transformers would fill them with random numbers."""


class NotAnAdapter(ValueError):
    """The adapter's folder holds neither a PEFT adapter nor a whole model."""


class AdapterMismatch(ValueError):
    """The adapter was trained on another base model: its weights do not fit this one."""


class NoPadToken(ValueError):
    """The tokenizer has no token to pad with that differs from its end token."""


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, with a pad token that is not the end token and padding on the right.

    A pad token equal to the end token would be masked out of the labels together with it, and the model would not learn to stop.
    No token is added: the embedding keeps its size.

    Raises:
        NoPadToken: the vocabulary holds nothing to pad with.
        WrongTokenizer: it does not belong to the model in the folder.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    refuse_foreign(tokenizer, folder=folder)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = _pad_token(tokenizer, folder=folder)
    tokenizer.padding_side = "right"
    return tokenizer


def _pad_token(tokenizer: PreTrainedTokenizerBase, *, folder: str | Path) -> str:
    vocabulary = tokenizer.get_vocab()
    used = (tokenizer.eos_token, tokenizer.bos_token)
    for name in (*_PAD_NAMES, *tokenizer.all_special_tokens):
        if name in vocabulary and name not in used:
            return name
    raise NoPadToken(
        f"{folder}: the tokenizer has no pad token other than its end token {tokenizer.eos_token!r}; "
        f"name an unused vocabulary entry as pad_token in tokenizer_config.json"
    )


def load_model(
    folder: str | Path,
    *,
    dtype: Precision = "float32",
    device: str = "cpu",
    adapter: str | Path | None = None,
) -> "PreTrainedModel | PeftModel":
    """A causal language model in evaluation mode.

    Args:
        folder: the base model's folder (config, safetensors).
        dtype: of the weights in memory.
        device: such as `cpu` or `cuda:0`.
        adapter: a PEFT folder, kept apart from the base weights; or a whole model's folder (technique `full`), loaded instead of the base.

    Raises:
        NoWeights, PickledWeights, IncompleteWeights: the weights are missing, not safetensors, or not all there.
        NotAnAdapter, AdapterMismatch: `adapter` is neither, or belongs to another base model.
    """
    if adapter is not None and not is_peft_folder(adapter):
        folder, adapter = adapter, None
    weight_files(folder)
    model, loading = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
        str(folder),
        dtype=getattr(torch, dtype),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    refuse_incomplete(loading, source=folder)
    model.to(device)
    if adapter is not None:
        return attach(model, adapter=adapter)
    return model.eval()


def refuse_incomplete(loading: Mapping[str, Collection[object]], *, source: str | Path) -> None:
    """Look at the loading info of `from_pretrained`.

    Raises:
        IncompleteWeights: weights are missing or have another shape.
    """
    for kind in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, loading.get(kind, ()))):
            raise IncompleteWeights(
                f"{source}: {len(names)} weights are {kind.removesuffix('_keys')}, such as {names[0]}; "
                "the files are incomplete or belong to another config.json: fetch the model again"
            )


def attach(model: PreTrainedModel, *, adapter: str | Path) -> "PeftModel":
    """The base model with a PEFT adapter beside its weights; `unload()` of the result gives the base model back.

    Raises:
        AdapterMismatch: some of the adapter's weights found no place in this model, or the other way round. Load the base model anew then.
    """
    # A second of imports that programs without an adapter need not wait for.
    from peft import PeftModel, get_peft_model_state_dict

    files = weight_files(adapter)
    with warnings.catch_warnings():
        # Only a warning to PEFT, which then answers like the base model; checked below instead.
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        try:
            tuned = PeftModel.from_pretrained(model, str(adapter), is_trainable=False, local_files_only=True)
        except (RuntimeError, ValueError) as error:
            raise AdapterMismatch(f"{adapter}: does not fit the base model {model.name_or_path}: {error}") from error
        except (IndexError, KeyError) as error:
            raise AdapterMismatch(
                f"{adapter}: has rows of added tokens for which {model.name_or_path} has no place, or lacks them ({error}); use the base "
                "model to which step 2 has added these tokens"
            ) from error
    wanted = _learned_names(get_peft_model_state_dict(tuned, save_embedding_layers=False))
    found: set[str] = set()
    for path in files:
        with safe_open(path, framework="pt") as file:
            found |= _learned_names(file.keys())
    if odd := sorted(wanted ^ found):
        raise AdapterMismatch(
            f"{adapter}: was trained on another base model than {model.name_or_path}: {len(wanted - found)} of {len(wanted)} adapted "
            f"weights are missing in it and {len(found - wanted)} have no place, such as {odd[0]}; use the base model of its training"
        )
    return tuned.eval()


def _learned_names(names: Iterable[str]) -> set[str]:
    return {name for name in names if "lora_" in name or TOKEN_ROWS in name}


def is_peft_folder(adapter: str | Path) -> bool:
    """Whether the folder is a PEFT adapter (True) or a whole model (False).

    Raises:
        NotAnAdapter: it is neither.
    """
    folder = Path(adapter)
    if (folder / "adapter_config.json").exists():
        return True
    if (folder / "config.json").exists():
        return False
    raise NotAnAdapter(f"{folder}: want adapter_config.json (a PEFT adapter) or config.json (a whole model), found {_listing(folder)}")


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a model or adapter folder, sorted by name.

    Raises:
        PickledWeights: there are only weights that execute code when they are read.
        NoWeights: there are none at all.
    """
    folder = Path(folder)
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise PickledWeights(
            f"{folder}: {', '.join(pickled)} are pickled weights, which can run code when they are read; "
            "want *.safetensors: ask the publisher for them, or convert on a machine that you can throw away"
        )
    raise NoWeights(f"{folder}: want *.safetensors, found {_listing(folder)}")


def weights_sha256(folder: str | Path) -> str:
    """SHA-256 over the content of the safetensors files of a model or adapter folder, in the order of their names.

    With one file it is what `sha256sum` prints for it. Of a hosted model, whose weights nobody outside sees, it is of its name and place.
    """
    hosted = read_hosted(folder)
    if hosted is not None:
        return hosted.sha256
    digest = hashlib.sha256()
    for path in weight_files(folder):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def bfloat16_speedup(device: str) -> float:
    """float32 seconds / bfloat16 seconds of one matrix product on `device`; below 1, bfloat16 is slower (as on CPUs without its units)."""
    return _product_seconds(device, dtype=torch.float32) / _product_seconds(device, dtype=torch.bfloat16)


def _product_seconds(device: str, *, dtype: torch.dtype) -> float:
    """The shortest of five products of 256 x 1024 by 1024 x 1024, after one that warms up: one layer's work on a small batch."""
    left = torch.ones(256, 1024, dtype=dtype, device=device)
    right = torch.ones(1024, 1024, dtype=dtype, device=device)
    seconds: list[float] = []
    for _ in range(6):
        _synchronize(device)
        start = time.perf_counter()
        torch.mm(left, right)
        _synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def held_memory_bytes() -> int:
    """Resident memory of this process now."""
    return psutil.Process().memory_info().rss


def peak_memory_bytes() -> int:
    """The most memory that this process has held: of the accelerator if it was used, else resident memory."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":
        # ru_maxrss would count the process that started this one too: it survives exec.
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory() -> None:
    """Give memory back that a trainer held: its parts hold each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    return ", ".join(sorted(path.name for path in folder.iterdir())) or "an empty folder"
