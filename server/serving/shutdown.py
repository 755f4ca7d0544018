"""How a server leaves: it accepts nothing more, hands back what waits and others can take up, lets the rest finish, and hands over what
is left."""

from __future__ import annotations

import logging

from server.serving.producing import Producer
from server.serving.takeover import Takeover
from server.store.store import StoreUnavailable

logger = logging.getLogger(__name__)


class Farewell:
    """The steps of leaving. Without a shared store there is nobody to hand anything to."""

    def __init__(self, takeover: Takeover, producer: Producer, *, is_shared: bool) -> None:
        self._takeover = takeover
        self._producer = producer
        self._is_shared = is_shared

    async def begin(self) -> None:
        """Claim nothing more, and give back what no engine has begun and somebody else can take up."""
        self._takeover.is_draining = True
        await self._hand_over(only_queued=True)

    async def end(self) -> None:
        """Hand over what has not finished in time."""
        await self._hand_over(only_queued=False)

    async def _hand_over(self, *, only_queued: bool) -> None:
        if not self._is_shared:
            return
        try:
            await self._producer.hand_over(only_queued=only_queued)
        except StoreUnavailable:
            logger.error("the store is away or full: others take over what it could not be told of when this server's lease ends")
