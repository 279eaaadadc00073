"""What several processes cannot train together, told before there is a model. Nothing here imports torch."""

from fine_tune_pipeline.programs.requests import Hyperparameters, Technique


def not_in_parts(technique: Technique) -> str | None:
    """Why the weights cannot be cut; None if they can."""
    if technique.type != "qlora":
        return None
    return "technique qlora: nf4 weights cannot be cut into parts; take lora, or compute.place.parallel: ddp"


def not_together(wanted: Hyperparameters, *, in_parts: bool) -> str | None:
    """Which settings were not made for several processes, and what to do; None if all were.

    Args:
        in_parts: each process holds a part of the model (fsdp2).
    """
    alone = {"early_stopping": wanted.early_stopping is not None, "range_test": wanted.range_test}
    compared = wanted.preference
    whole = {
        "neftune_alpha": wanted.neftune_alpha is not None,
        # What the untrained model makes of every answer is computed before the model is cut.
        "preference": compared is not None and compared.type != "orpo",
    }
    one, uncut = ([name for name, asked in settings.items() if asked] for settings in (alone, whole))
    refused = [*one, *(uncut if in_parts else ())]
    if not refused:
        return None
    return (
        f"{', '.join(refused)}: not known to several processes{' with fsdp2' if in_parts else ''} yet; leave it out of the section "
        f"training, or write compute.place.{'launcher: plain' if one else 'parallel: ddp'}"
    )
