"""What is kept of responses, as an older server wrote it down."""

from __future__ import annotations

from server.api.bad_requests import fitted
from server.api.response_records import Record


def test_a_record_of_a_server_that_did_not_tell_streams_apart_is_read() -> None:
    """After an upgrade no response kept before could be fetched, cancelled or gone on from."""
    record = fitted({"begun": {}, "history": [], "items": []}, Record)
    assert record.is_stream
