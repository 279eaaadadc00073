import pytest

from fine_tune_pipeline.programs.pii.stand_ins import NoKey, StandIns
from fine_tune_pipeline.spec.dataset import PiiSpec

KEY = "the key of these tests"


def test_each_operator_writes_what_it_says():
    made = {name: StandIns(PiiSpec(operator=name), key=KEY)("PERSON", "Jane Doe") for name in ("type_tag", "mask", "hash", "pseudonym")}
    assert made["type_tag"] == "<PERSON>"
    assert made["mask"] == "**** ***"
    assert made["hash"].startswith("<PERSON:")
    assert made["pseudonym"].istitle()
    assert "Jane" not in made["hash"] + made["pseudonym"]


def test_an_entity_may_have_an_operator_of_its_own():
    stand_in = StandIns(PiiSpec(operator="mask", operators={"PERSON": "type_tag"}))
    assert (stand_in("PERSON", "Ann"), stand_in("IP_ADDRESS", "10.2.3.4")) == ("<PERSON>", "**.*.*.*")


def test_what_has_no_pseudonym_gets_its_type_and_is_not_issued():
    stand_in = StandIns(PiiSpec(operator="pseudonym"), key=KEY)
    assert stand_in("SECRET", "hunter22") == "<SECRET>"
    assert stand_in.issued == set()
    assert stand_in("PERSON", "Ann") in stand_in.issued


@pytest.mark.parametrize("key", ["", "too short"])
@pytest.mark.parametrize("pii", [PiiSpec(operator="pseudonym"), PiiSpec(operators={"PERSON": "hash"})])
def test_hashes_and_pseudonyms_need_a_key(pii, key):
    with pytest.raises(NoKey, match=rf"FINE_TUNE_PIPELINE_PII_KEY with at least 16 characters, got {len(key)}"):
        StandIns(pii, key=key)


def test_the_id_of_a_key_tells_keys_apart_and_is_none_where_none_is_needed():
    pii = PiiSpec(operator="pseudonym")
    assert StandIns(PiiSpec(), key=KEY).key_id is None
    one, two = StandIns(pii, key=KEY).key_id, StandIns(pii, key="another key of these tests").key_id
    assert one is not None
    assert one != two
    assert KEY not in one
