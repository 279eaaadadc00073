import subprocess
import sys

from fine_tune_pipeline.artifacts.fingerprint import changes, fingerprint, payload
from fine_tune_pipeline.spec.dataset import PiiSpec


def made(**what: object) -> dict[str, object]:
    return payload(asset="scrubbed_examples", version=1, what=what, upstream={"clean_examples": "aaaa"})


def test_the_same_content_in_another_order_has_the_same_fingerprint():
    one = payload(asset="a", version=1, what={"x": 1, "y": {"b": 2, "a": 3}}, upstream={"p": "1", "q": "2"})
    two = payload(asset="a", version=1, what={"y": {"a": 3, "b": 2}, "x": 1}, upstream={"q": "2", "p": "1"})
    assert fingerprint(one) == fingerprint(two)


def test_every_part_of_the_payload_counts():
    base = payload(asset="a", version=1, what={"x": 1}, upstream={"p": "1"})
    others = [
        payload(asset="b", version=1, what={"x": 1}, upstream={"p": "1"}),
        payload(asset="a", version=2, what={"x": 1}, upstream={"p": "1"}),
        payload(asset="a", version=1, what={"x": 2}, upstream={"p": "1"}),
        payload(asset="a", version=1, what={"x": 1}, upstream={"p": "2"}),
    ]
    assert len({fingerprint(item) for item in [base, *others]}) == 5


def test_a_fingerprint_is_the_same_in_another_process():
    script = (
        "from fine_tune_pipeline.artifacts.fingerprint import *; from fine_tune_pipeline.spec.dataset import PiiSpec;"
        "print(fingerprint(payload(asset='s', version=1, what={'dataset.pii': PiiSpec()}, upstream={})))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "77"}
    ).stdout.strip()
    assert out == fingerprint(payload(asset="s", version=1, what={"dataset.pii": PiiSpec()}, upstream={}))


def test_changes_name_the_fields_of_the_yaml_and_the_upstream_assets():
    before = made(**{"dataset.pii": PiiSpec(), "rows": 1})
    after = payload(
        asset="scrubbed_examples",
        version=1,
        what={"dataset.pii": PiiSpec(operator="remove"), "rows": 1},
        upstream={"clean_examples": "bbbb"},
    )
    assert changes(before, after) == ["upstream.clean_examples", "dataset.pii.operator"]
    assert changes(before, before) == []
