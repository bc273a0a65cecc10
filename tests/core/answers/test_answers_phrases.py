"""Each form of a denial or retraction matches its own example."""

import re

import pytest

from lema_core.answers import phrases

TABLES = {"elsewhere": phrases._ELSEWHERE, "retraction": phrases._RETRACTION, "at once": phrases._AT_ONCE}


@pytest.mark.parametrize(("table", "example"), [(name, example) for name, forms in TABLES.items() for example in forms])
def test_a_form_matches_its_example(table, example):
    assert re.search(TABLES[table][example], example, re.VERBOSE | re.IGNORECASE)
