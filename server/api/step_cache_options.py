"""The options of step caching, the same wherever pictures are asked for."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from model.step_cache_rules import StepCache
from server.api.wire_object import WireObject, unsupported

STEP_CACHE_FIELDS = {
    "step_cache": "between the first steps and the last only every n-th is computed, the others are foreseen; 1, computing all, to 10",
    "step_cache_order": "what is foreseen follows a Taylor series of this order, 0 to 6; 1 where left out",
    "step_cache_first": "how many steps are computed before any is foreseen, 1 to 1000; 5 where left out",
}


class StepCacheOptions(WireObject):
    """Which steps of a picture are foreseen instead of computed; off by default."""

    step_cache: Annotated[int, Field(ge=1, le=10)] = 1
    step_cache_order: Annotated[int, Field(ge=0, le=6)] | None = None
    step_cache_first: Annotated[int, Field(ge=1, le=1000)] | None = None

    @model_validator(mode="after")
    def _is_of_use(self) -> Self:
        if self.step_cache > 1:
            return self
        for name, value in (("step_cache_order", self.step_cache_order), ("step_cache_first", self.step_cache_first)):
            if value is not None:
                raise unsupported("has no effect without step_cache of 2 or more", name)
        return self

    def step_cache_choice(self) -> StepCache | None:
        """Return what is foreseen; None where every step is computed."""
        if self.step_cache == 1:
            return None
        given = {"order": self.step_cache_order, "num_first": self.step_cache_first}
        return StepCache(self.step_cache, **{name: value for name, value in given.items() if value is not None})
