"""Check in seconds that every patch of ``tests/faults/test_planted_bugs.py`` still applies.

Otherwise a patch whose source line was rewritten would fail only in the slow fault tests.
"""

from __future__ import annotations

import pytest

from tests.faults.test_planted_bugs import INPUT_BUGS, PIPELINE_BUGS, STORE_BUGS, Patch
from tests.processes import ROOT

PATCHES = [patch for bug in (*STORE_BUGS, *INPUT_BUGS, *PIPELINE_BUGS) for patch in bug.patches]


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.file)
def test_the_text_that_a_patch_replaces_occurs_exactly_once(patch: Patch) -> None:
    assert (ROOT / patch.file).read_text().count(patch.text) == 1
