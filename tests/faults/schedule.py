"""What is left to chance, made again by its seed: when a fault comes, which, and how long it lasts."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

SEED_VARIABLE: Final = "CANDLEFLOW_FAULT_SEED"
DEFAULT_SEED: Final = 20_240_808


def chosen_seed() -> int:
    """That of the environment, ``random`` for one that nobody chose; else always the same."""
    given = os.environ.get(SEED_VARIABLE, str(DEFAULT_SEED))
    return secrets.randbelow(10**9) if given == "random" else int(given)


def chance(seed: int, name: str) -> Random:
    """A test's own: what one test draws changes nothing for another."""
    return Random(f"{seed} {name}")


@dataclass(frozen=True, slots=True)
class Step:
    """One fault: so many seconds after the one before it began, and for how many."""

    after: float
    fault: str
    lasts: float

    def __str__(self) -> str:
        return f"after {self.after:4.1f} s: {self.fault} for {self.lasts:.1f} s"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Faults in their order."""

    seed: int
    steps: Sequence[Step]

    def __str__(self) -> str:
        head = f"schedule of {SEED_VARIABLE}={self.seed}:"
        return "\n".join([head, *(f"  {number:2}. {step}" for number, step in enumerate(self.steps, 1))])


def storm(seed: int, seconds: float, faults: Sequence[str]) -> Schedule:
    """Faults for so many seconds, each kind before any comes again."""
    random = chance(seed, "storm")
    steps: list[Step] = []
    left: list[str] = []
    while sum(step.after for step in steps) < seconds:
        left = left or random.sample(faults, len(faults))
        steps.append(Step(round(random.uniform(0.5, 4), 1), left.pop(), round(random.uniform(0.5, 6), 1)))
    return Schedule(seed, steps)
