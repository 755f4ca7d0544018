"""How the tokens of a text are drawn: the options that are the same wherever a text is asked for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from server.api.drawing_options import Seed
from server.api.wire_object import WireObject
from server.serving.asks import TextChoices

MAX_TOKENS = 1_000_000

Unit = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class SamplingOptions(WireObject):
    """What is left out is off, and the likeliest token is taken."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Unit | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS)] | None = None
    min_p: Unit | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    seed: Seed | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def sampling(self) -> TextChoices:
        """Return the choices so far, freed of their wire format; whether scores are shown is not among them."""
        return TextChoices(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
        )
