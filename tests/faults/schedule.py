"""Random schedules of faults, which a seed repeats: which fault, when, and for how long."""

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
    """Return the seed of the environment variable, where ``random`` draws a new one; else the default."""
    given = os.environ.get(SEED_VARIABLE, str(DEFAULT_SEED))
    return secrets.randbelow(10**9) if given == "random" else int(given)


def chance(seed: int, name: str) -> Random:
    """Return a random generator for one test, independent of what other tests draw."""
    return Random(f"{seed} {name}")


@dataclass(frozen=True, slots=True)
class Step:
    """One fault: seconds after the start of the fault before it, and its duration."""

    after: float
    fault: str
    lasts: float

    def __str__(self) -> str:
        return f"after {self.after:4.1f} s: {self.fault} for {self.lasts:.1f} s"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Faults in order, and the seed that repeats them."""

    seed: int
    steps: Sequence[Step]

    def __str__(self) -> str:
        head = f"schedule for {SEED_VARIABLE}={self.seed}:"
        return "\n".join([head, *(f"  {number:2}. {step}" for number, step in enumerate(self.steps, 1))])


def storm(seed: int, seconds: float, faults: Sequence[str]) -> Schedule:
    """Return random faults for ``seconds``; each kind comes once before any is repeated."""
    random = chance(seed, "storm")
    steps: list[Step] = []
    left: list[str] = []
    while sum(step.after for step in steps) < seconds:
        left = left or random.sample(faults, len(faults))
        steps.append(Step(round(random.uniform(0.5, 4), 1), left.pop(), round(random.uniform(0.5, 6), 1)))
    return Schedule(seed, steps)
