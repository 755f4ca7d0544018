"""What the steps since the last report mean to the outside."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.messages import FinishedOutput, ImageOutput, PreviewOutput, ProgressOutput, SilentDraw, TextClosed, TokenOutput


@dataclass(slots=True)
class Outputs:
    """What a step means to the outside; see `StepReport` for the order."""

    silent: list[SilentDraw] = field(default_factory=list)
    tokens: list[TokenOutput] = field(default_factory=list)
    closed: list[TextClosed] = field(default_factory=list)
    progress: list[ProgressOutput] = field(default_factory=list)
    previews: list[PreviewOutput] = field(default_factory=list)
    images: list[ImageOutput] = field(default_factory=list)
    finished: list[FinishedOutput] = field(default_factory=list)

    @property
    def are_empty(self) -> bool:
        """Whether there is nothing to say."""
        return not (self.silent or self.tokens or self.closed or self.progress or self.previews or self.images or self.finished)
