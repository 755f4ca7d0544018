"""What do others' tokens wait for while a picture is in the decoder or the encoders, beside the steps and within one?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from loadtests.gpu.part import Line, Options
from loadtests.gpu.random_engine import chat_request, drain, looking_request, next_report, picture_request, step
from loadtests.gpu.side import side_stream
from server.engine.process import LoadedEngine
from server.messages import Request


def measure_decoder(loaded: LoadedEngine, options: Options) -> Iterator[Line]:
    """Time the tokens of chats while a picture is in the decoder or the encoders, beside them and within a step: then they wait for it."""
    side, num_chats = (16, 2) if options.is_tiny else (1024, 32)
    for number in range(num_chats):
        loaded.engine.submit(chat_request(f"chat {number}", 10 if options.is_tiny else 500, 10_000))
    while step(loaded).num_decode_rows < num_chats:
        pass
    for way, stream in (("beside", side_stream(options.device)), ("before", None)):
        loaded.runner.decode_beside(stream)
        loaded.scheduler.encodings.encoder = loaded.runner if stream is not None else None
        for round_number in range(2):
            drawn = until_it_is_there(loaded, picture_request(f"drawn {way}, {round_number}", side, 3))
            read = until_it_is_there(loaded, looking_request(f"read {way}, {round_number}", side, loaded.model.config))
        whose = f"{way} the next tokens of {num_chats} chats"
        yield {"what": f"a picture of {side} in the decoder {whose}", "unit": "ms/token", **drawn.columns, "decoder ms": drawn.decoder_ms}
        yield {"what": f"a picture of {side} in the encoders {whose}", "unit": "ms/token", **read.columns}
    loaded.runner.decode_beside(side_stream(options.device))
    loaded.scheduler.encodings.encoder = loaded.runner
    drain(loaded)


@dataclass(frozen=True, slots=True)
class Gaps:
    """Milliseconds between others' tokens until a picture was there, by what the step between them did.

    Attributes:
        decoding_ms: it only decoded, or it ended a picture: what the decoder and the encoders cost others where they work beside.
        taking_in_ms: it took in a prompt, or a picture that had been encoded; within it where nothing works beside.
        decoder_ms: how long the decoder took.
    """

    decoding_ms: list[float]
    taking_in_ms: list[float]
    decoder_ms: float

    @property
    def columns(self) -> Line:
        """What a table says of them; a kind of step that did not come has no number."""
        line: Line = {"value": median(self.decoding_ms), "max": max(self.decoding_ms)} if self.decoding_ms else {}
        return line | ({"step that takes it in, ms": max(self.taking_in_ms)} if self.taking_in_ms else {})


def until_it_is_there(loaded: LoadedEngine, request: Request) -> Gaps:
    """Answer a request, and watch others' tokens meanwhile; what came before and between its denoise steps is left out.

    Decoded within a step there is one gap: that step, its forward pass included.
    """
    loaded.engine.submit(request)
    decoding_ms: list[float] = []
    taking_in_ms: list[float] = []
    last_s = time.perf_counter()
    while True:
        report = next_report(loaded)
        now_s = time.perf_counter()
        if report.stats.num_denoise_rows and not report.images:
            decoding_ms.clear()
            taking_in_ms.clear()
        else:
            (taking_in_ms if report.stats.num_prefill_tokens else decoding_ms).append(1e3 * (now_s - last_s))
        last_s = now_s
        if any(end.request_id == request.request_id for end in report.finished):
            return Gaps(decoding_ms, taking_in_ms, 1e3 * report.stats.vae_s)
