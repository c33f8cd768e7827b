"""What every section of the settings is made with."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

PREFIX: Final = "CANDLEFLOW_"

Port = Annotated[int, Field(ge=1, le=65_535)]


class Section(BaseModel):
    """A part of the settings, frozen.

    The variable of a field is ``CANDLEFLOW_<section>_<field>``; a field with another one has its name,
    in small letters, as ``alias``.
    """

    model_config = ConfigDict(
        frozen=True, hide_input_in_errors=True, validate_by_name=True, validate_by_alias=False
    )


class NamedError(ValueError):
    """An error found while looking at several settings; carries the one to name, and its value if it may be
    shown."""

    def __init__(self, name: str, value: object, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.value = value
