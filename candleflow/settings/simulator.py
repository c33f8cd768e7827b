"""The simulated exchange."""

from __future__ import annotations

from pydantic import Field

from candleflow.settings.section import Port, Section


class SimulatorSettings(Section):
    """``settings.simulator``."""

    port: Port = Field(9_443, description="The simulator's port, on 127.0.0.1")
    rate: float = Field(
        40, gt=0, le=1_000_000, description="Simulated trades a second, over all symbols together"
    )
    seed: int = Field(1, ge=0, le=2**63 - 1, description="The simulated market's seed")
