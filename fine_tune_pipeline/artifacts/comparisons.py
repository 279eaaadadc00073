"""Examples with a second answer that people liked less: what there is to compare."""


class NoComparisons(ValueError):
    """Answers are to be compared, and the data has no two to one prompt."""


def check_compared(usable: int, *, of: int, source: str, wanted: str) -> None:
    """Refuse data without a single rejected answer.

    Args:
        source: of the rows, for the message.
        wanted: how they would be learned from, such as `dpo`.

    Raises:
        NoComparisons: says what to give.
    """
    if usable == 0:
        raise NoComparisons(
            f"{source}: none of {of} rows has a rejected answer, and training.preference: {wanted} compares two; "
            "give dataset.sources with layout: preference, or leave training.preference out"
        )
