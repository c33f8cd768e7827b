"""Tests that CommitWatch finds COMMITs in messages of PostgreSQL's protocol."""

from __future__ import annotations

import pytest

from tests.faults.commits import CommitWatch


def message(kind: str, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return kind.encode() + (len(body) + 4).to_bytes(4) + body


SSL_REQUEST = (8).to_bytes(4) + (80_877_103).to_bytes(4)
START_UP = (17).to_bytes(4) + (3 << 16).to_bytes(4) + b"user\0me\0\0"
EXECUTE, SYNC = message("E", b"\0", bytes(4)), message("S")


def parse(name: bytes, statement: bytes) -> bytes:
    return message("P", name, b"\0", statement, b"\0", bytes(2))


def bind(name: bytes) -> bytes:
    return message("B", b"\0", name, b"\0", bytes(6))


def watched(*chunks: bytes) -> list[int | None]:
    watch = CommitWatch()
    return [watch(chunk) for chunk in (SSL_REQUEST, START_UP, *chunks)][2:]


def test_a_commit_is_found_as_text_and_later_by_its_statement_name() -> None:
    merge = parse(b"S_1", b"SELECT merge_batch()") + bind(b"S_1") + EXECUTE + SYNC
    first = parse(b"S_2", b"COMMIT") + bind(b"S_2") + EXECUTE + SYNC
    again = bind(b"S_2") + EXECUTE + SYNC
    assert watched(merge, first, merge, again) == [None, 0, None, 0]
    assert len(again) == 31


def test_a_commit_is_found_after_other_messages_of_its_chunk() -> None:
    before = parse(b"", b"BEGIN") + bind(b"") + EXECUTE
    assert watched(before + parse(b"S_1", b"COMMIT")) == [len(before)]


@pytest.mark.parametrize("at", range(1, 31))
def test_a_commit_split_over_two_chunks_is_found_in_the_second(at: int) -> None:
    commit = bind(b"S_1") + EXECUTE + SYNC
    found = watched(parse(b"S_1", b"COMMIT"), commit[:at], commit[at:])
    assert found == [0, 0, None] if at >= len(bind(b"S_1")) else [0, None, 0]


def test_a_name_reused_for_another_statement_is_no_commit() -> None:
    assert watched(parse(b"S_1", b"COMMIT"), parse(b"S_1", b"SELECT 1"), bind(b"S_1")) == [0, None, None]


def test_statement_names_are_per_connection_and_a_value_is_no_commit() -> None:
    assert watched(bind(b"S_1"), message("p", b"COMMIT\0"), message("Q", b"SELECT 'COMMIT'\0")) == [None] * 3
    assert watched(message("Q", b"COMMIT\0")) == [0]
