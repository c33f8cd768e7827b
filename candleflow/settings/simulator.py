"""Settings of the simulated exchange."""

from __future__ import annotations

from pydantic import Field

from candleflow.settings.section import Port, Section


class SimulatorSettings(Section):
    host: str = Field(
        "127.0.0.1",
        pattern=r"^[A-Za-z0-9.-]{1,253}$",
        description="Where the simulator listens, and where the other processes connect to it, without TLS. "
        "docker-compose.yml sets it to the simulator's service",
    )
    port: Port = Field(9_443, description="Port of the simulator. Change it if another program uses it")
    rate: float = Field(
        40,
        gt=0,
        le=1_000_000,
        description="Simulated trades per second, over all symbols together. Raise it to test load",
    )
    seed: int = Field(
        1, ge=0, le=2**63 - 1, description="Random seed of the simulated market. Change it for other prices"
    )
