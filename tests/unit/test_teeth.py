"""That the bugs of ``tests/faults/test_teeth.py`` can still be planted is told here, within seconds.

They bite only in an hour of fault tests, which is late to learn that a line was rewritten.
"""

from __future__ import annotations

import pytest

from tests.faults.test_teeth import ON_THE_EDGES, ON_THE_STORE, ON_THE_WHOLE_WAY, Patch
from tests.processes import ROOT

PATCHES = [patch for tooth in (*ON_THE_STORE, *ON_THE_EDGES, *ON_THE_WHOLE_WAY) for patch in tooth.patches]


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.file)
def test_the_text_that_a_bug_replaces_is_there_once(patch: Patch) -> None:
    assert (ROOT / patch.file).read_text().count(patch.text) == 1
