"""Base classes of the settings sections."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

PREFIX: Final = "CANDLEFLOW_"

Port = Annotated[int, Field(ge=1, le=65_535)]


class Section(BaseModel):
    """Base class of a settings section; immutable.

    A field is read from ``CANDLEFLOW_<SECTION>_<FIELD>``. Where the variable has another name, ``alias`` is
    that name in lower case, without the prefix.
    """

    model_config = ConfigDict(
        frozen=True, hide_input_in_errors=True, validate_by_name=True, validate_by_alias=False
    )


class NamedError(ValueError):
    """Settings that contradict each other: ``name`` is the one to change, ``value`` is None if secret."""

    def __init__(self, name: str, value: object, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.value = value
