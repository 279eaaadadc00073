"""Which replica is asked: one that is not tried, not at rest, and answers the fewest requests; a name may have many addresses."""

from collections.abc import Iterator, Sequence

import pytest

from fine_tune_pipeline.programs.vllm import replicas as module
from fine_tune_pipeline.programs.vllm.replica import ReplicaDown
from fine_tune_pipeline.programs.vllm.replicas import NoVllmKey, Replicas, addresses_of, key_of
from fine_tune_pipeline.programs.vllm.requests import VllmUpstream

UPSTREAM = VllmUpstream(urls=("http://a:8000", "http://b:8000"), base="base", adapters_at="/x", seen_as="/x", max_lora_rank=16)


@pytest.fixture
def two() -> Iterator[Replicas]:
    made = Replicas(UPSTREAM, key=None)
    yield made
    made.close()


def test_the_one_with_the_fewest_requests_is_next(two: Replicas):
    first, second = two.all()
    with two.asking(first):
        assert {two.next([]).url for _ in range(8)} == {second.url}
    assert {two.next([]).url for _ in range(64)} == {first.url, second.url}


def test_one_that_was_tried_or_is_down_comes_last_but_still_comes(two: Replicas, monkeypatch: pytest.MonkeyPatch):
    first, second = two.all()
    assert two.next([first.url]) is second
    with pytest.raises(ReplicaDown), two.asking(first):
        raise ReplicaDown("gone")
    assert {two.next([]).url for _ in range(8)} == {second.url}
    assert two.next([second.url]) is first
    assert two.next([first.url, second.url, second.url]) is first
    monkeypatch.setattr(module, "REST_SECONDS", 0.0)
    with pytest.raises(ReplicaDown), two.asking(first):
        raise ReplicaDown("gone")
    assert {two.next([]).url for _ in range(64)} == {first.url, second.url}


def test_a_name_stands_for_all_its_addresses_which_are_looked_up_again(monkeypatch: pytest.MonkeyPatch):
    found: list[Sequence[str]] = [[], ["10.0.0.1", "10.0.0.2"], ["10.0.0.2", "[fd00::3]"], []]
    by_name = VllmUpstream.model_validate({**UPSTREAM.model_dump(), "urls": ("http://vllm:8000",), "replicas": "dns"})
    made = Replicas(by_name, key=None, resolve=lambda name, port: found.pop(0) if (name, port) == ("vllm", 8000) else [])
    with pytest.raises(ReplicaDown, match="http://vllm:8000: has no address"):
        made.all()
    first = made.all()
    assert [replica.url for replica in first] == ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]
    assert made.all() == first
    monkeypatch.setattr(module, "LOOK_UP_SECONDS", 0.0)
    assert [replica.url for replica in made.all()] == ["http://10.0.0.2:8000", "http://[fd00::3]:8000"]
    # A name server that is away takes no replica with it.
    assert len(made.all()) == 2
    made.close()


def test_a_real_name_is_looked_up():
    assert "127.0.0.1" in addresses_of("localhost", 8000) or "[::1]" in addresses_of("localhost", 8000)
    assert addresses_of("no-such-host.invalid", 8000) == []


def test_the_key_is_asked_for_where_there_is_to_be_one():
    wanted = UPSTREAM.model_copy(update={"api_key_variable": "SOME_KEY"})
    assert key_of(wanted, {"SOME_KEY": " secret "}) == "secret"
    assert key_of(UPSTREAM, {}) is None
    with pytest.raises(NoVllmKey, match="SOME_KEY is empty"):
        key_of(wanted, {"SOME_KEY": " "})


def test_the_key_is_never_shown(two: Replicas):
    made = Replicas(UPSTREAM, key="a-secret")
    assert "a-secret" not in repr(made.all())
    made.close()
