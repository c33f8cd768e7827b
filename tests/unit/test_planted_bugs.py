"""That the bugs of ``tests/faults/test_planted_bugs.py`` can still be planted is told here, within seconds.

They bite only in an hour of fault tests, which is late to learn that a line was rewritten.
"""

from __future__ import annotations

import pytest

from tests.faults.test_planted_bugs import AT_THE_EDGES, IN_THE_STORE, ON_THE_WHOLE_WAY, Patch
from tests.processes import ROOT

PATCHES = [patch for bug in (*IN_THE_STORE, *AT_THE_EDGES, *ON_THE_WHOLE_WAY) for patch in bug.patches]


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.file)
def test_the_text_that_a_bug_replaces_is_there_once(patch: Patch) -> None:
    assert (ROOT / patch.file).read_text().count(patch.text) == 1
