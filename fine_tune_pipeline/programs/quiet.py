"""Keeps the output of programs to what this project says."""

import warnings

from transformers.utils import logging as transformers_logging


def quiet_libraries() -> None:
    """No bars and no hints of libraries; their errors stay."""
    # peft 0.21 asks for a name that transformers 5.24 has renamed.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
