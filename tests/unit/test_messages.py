"""Each error and warning names what it is about in a plain line; errors that end a process name a remedy."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import candleflow
from candleflow import errors

PACKAGE = Path(candleflow.__file__).parent
KINDS = {name: name for name, _ in inspect.getmembers(errors, inspect.isclass)}
"""The class of ``candleflow.errors`` that each error class is or extends."""
NEVER_SHOWN = "StoppedError"
CODES = {"CF001": "HeldError", "CF002": "LedgerError"}
"""SQL functions raise these codes; ``engine.ledger`` turns them into the errors."""
ENDS_A_PROCESS = {"SettingError", "HeldError", "LedgerError", "StackError"}

WORDS_LIMIT = 34
PRIVATE = re.compile(
    r"\b(holes?|told|tells?|spoken|rivals?|mend\w*|book|desk|tooth|lets? go|aside|look(ed)? (at|after))\b",
    re.IGNORECASE,
)
NAMED = re.compile(
    r"\{|CANDLEFLOW_[A-Z]|--[a-z]|^\w+: |\b(Kafka|PostgreSQL|Spark|Binance|alert rules?|package \w+)\b"
)
REMEDY = re.compile(
    r"\b(must|accepted|use|set|unset|write|choose|save|stop|start|restart|install|run|add|try|check|correct|restore"
    r"|pip install|python -m candleflow|configured|there is no such file)\b"
    # These values have the remedy, or the path of a log.
    r"|\{(_advice\(\)|_EXAMPLE|why|log|self\.why_it_ended\(\)|self\.not_ready\(\))\}"
)


class Message(NamedTuple):
    """``text`` has the code of each value that is put in, in braces."""

    place: str
    kind: str
    text: str


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return re.sub(r"%[\d.,]*[a-z]", "{}", str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(one) for one in node.values)
    if isinstance(node, ast.FormattedValue):
        return (
            text_of(node.value) if isinstance(node.value, ast.Constant) else f"{{{ast.unparse(node.value)}}}"
        )
    return "{}"


def raised_or_logged(file: Path) -> Iterator[Message]:
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Call(func=ast.Name(id=name), args=[text, *_]) if name in KINDS:
                kind = KINDS[name]
            case ast.Call(func=ast.Attribute(ast.Name("_log" | "_LOG"), kind), args=[text, *_]):
                if kind not in {"warning", "error", "critical", "exception"}:
                    continue
            case _:
                continue
        yield Message(f"{file.relative_to(PACKAGE)}:{node.lineno}", kind, text_of(text))


def raised_in_sql(file: Path) -> Iterator[Message]:
    found = re.finditer(
        r"RAISE EXCEPTION\s+'((?:[^']|'')*)'.*?ERRCODE = '(\w+)'", file.read_text(), re.DOTALL
    )
    for one in found:
        text = one[1].replace("''", "'").replace("%", "{}")
        yield Message(file.name, CODES.get(one[2], "StoreError"), text)


def messages() -> list[Message]:
    """Return all messages but those that only pass another one on."""
    files = sorted(PACKAGE.rglob("*.py"))
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        match node:
            case ast.ClassDef(name=name, bases=[ast.Name(id=base)]) if base in KINDS and name != NEVER_SHOWN:
                KINDS.setdefault(name, KINDS[base])
    found = [one for file in files for one in raised_or_logged(file)]
    found += [one for file in sorted(PACKAGE.rglob("*.sql")) for one in raised_in_sql(file)]
    return [one for one in found if re.search("[a-z]", words(one.text))]


def words(text: str) -> str:
    return re.sub(r"\{.*?\}", "…", text)


MESSAGES = messages()


def is_one_plain_line(text: str) -> bool:
    text = words(text)
    return text == " ".join(text.split()) and text[-1] not in ".!" and not PRIVATE.search(text)


def is_short(text: str) -> bool:
    return all(len(part.split()) < WORDS_LIMIT for part in re.split(r"[.;] ", words(text)))


def names_what_it_is_about(text: str) -> bool:
    return NAMED.search(text) is not None


def says_what_to_do(text: str) -> bool:
    return REMEDY.search(text) is not None


def test_the_messages_are_found() -> None:
    assert len(MESSAGES) > 200
    assert {one.kind for one in MESSAGES} >= ENDS_A_PROCESS | {"warning", "error"}


@pytest.mark.parametrize("rule", [is_one_plain_line, is_short, names_what_it_is_about])
def test_each_message(rule: Callable[[str], bool]) -> None:
    assert [one for one in MESSAGES if not rule(one.text)] == []


def test_each_error_that_ends_a_process_says_what_to_do() -> None:
    assert [one for one in MESSAGES if one.kind in ENDS_A_PROCESS and not says_what_to_do(one.text)] == []
