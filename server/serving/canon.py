"""The canon of an answer as bytes: what an engine said, in order, so that another can go on from it and this front's work be redone.

Requests are told apart by the number of the answer, since every engine knows them under names of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import msgspec

from server.messages import FinishedOutput, ImageOutput, Picture, PreviewOutput, ProgressOutput, SilentDraw, TextClosed, TokenOutput
from server.serving.output_stream import Output

FAST = 1
"""Compression level: a drawn picture shrinks to a half in the time it takes to send it."""

NO_PICTURE = Picture(1, 1, bytes(3))
"""What stands for a preview, which nobody is shown a second time."""


class _Entry(msgspec.Struct, array_like=True, frozen=True):
    """One output, in the field of its kind."""

    choice: int
    silent: SilentDraw | None = None
    token: TokenOutput | None = None
    closed: TextClosed | None = None
    progress: ProgressOutput | None = None
    preview: PreviewOutput | None = None
    image: ImageOutput | None = None
    finished: FinishedOutput | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Entry)


def encode_output(choice: int, output: Output) -> bytes:
    """Return an output of answer number ``choice`` as canon. Slow for pictures: call it in a thread then."""
    return _encoder.encode(_entry(choice, output))


def _entry(choice: int, output: Output) -> _Entry:
    match output:
        case SilentDraw():
            return _Entry(choice, silent=output)
        case TokenOutput():
            return _Entry(choice, token=output)
        case TextClosed():
            return _Entry(choice, closed=output)
        case ProgressOutput():
            return _Entry(choice, progress=output)
        case PreviewOutput():
            preview = PreviewOutput(output.request_id, output.index, output.preview, output.step, output.num_steps, NO_PICTURE)
            return _Entry(choice, preview=preview)
        case ImageOutput(picture=picture):
            packed = Picture(picture.height, picture.width, zlib.compress(picture.rgb, FAST))
            return _Entry(choice, image=ImageOutput(output.request_id, output.index, packed))
        case FinishedOutput():
            return _Entry(choice, finished=output)


def decode_outputs(entries: Iterable[bytes]) -> list[tuple[int, Output]]:
    """Return outputs with the numbers of their answers.

    Raises:
        msgspec.DecodeError: what is stored is no canon.
    """
    return [_output(_decoder.decode(entry)) for entry in entries]


def _output(entry: _Entry) -> tuple[int, Output]:
    if entry.image is not None:
        packed = entry.image.picture
        try:
            picture = Picture(packed.height, packed.width, zlib.decompress(packed.rgb))
        except zlib.error as error:
            raise msgspec.DecodeError("a picture that cannot be unpacked") from error
        return entry.choice, ImageOutput(entry.image.request_id, entry.image.index, picture)
    output = entry.silent or entry.token or entry.closed or entry.progress or entry.preview or entry.finished
    if output is None:
        raise msgspec.DecodeError("an entry without an output")
    return entry.choice, output


def engine_canon(outputs: Iterable[Output]) -> list[int | Picture]:
    """Return what an engine must know of the outputs of one answer to go on from them."""
    canon: list[int | Picture] = []
    for output in outputs:
        match output:
            case SilentDraw() | TokenOutput():
                canon.append(output.token_id)
            case ImageOutput():
                canon.append(output.picture)
            case TextClosed() | ProgressOutput() | PreviewOutput() | FinishedOutput():
                pass
    return canon
