"""A part of the kill matrix: real servers, a real Redis, a real nginx; see `loadtests.kill_matrix` for the whole."""

from __future__ import annotations

import pytest

from loadtests.kill_matrix.__main__ import run
from loadtests.kill_matrix.matrix import table


@pytest.mark.slow
async def test_streams_survive_the_death_of_their_server_and_of_their_engine() -> None:
    cells = await run(["SIGKILL", "engine killed"], ["mid-denoise"], num_streams=6, model=None)
    assert len(cells) == 2 and all(cell.is_clean for cell in cells), "\n" + table(cells)
