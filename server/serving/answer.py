"""One answer as it grows: the engine's outputs for one request become events, tokens become text, pictures become files.

Keeps what must be remembered between tokens: half a character, half a stop string, which piece of the answer is being written.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from model.tokenizer import StreamDecoder, Tokenizer
from server.errors import DeadlineExceeded, EngineUnavailable, GenerationFailed, Overloaded, PlaitError
from server.messages import (
    FinishedOutput,
    FinishReason,
    ImageOutput,
    PreviewOutput,
    ProgressOutput,
    SilentDraw,
    TextClosed,
    TokenLogprob,
    TokenOutput,
)
from server.serving.asks import PictureFormat
from server.serving.events import (
    AlternativeToken,
    CallEvent,
    Event,
    FinishedEvent,
    PictureEvent,
    PreviewEvent,
    ProgressEvent,
    ScoredToken,
    TextEvent,
    ThoughtEvent,
)
from server.serving.output_stream import Output
from server.serving.picture_encoding import encode_picture
from server.serving.reply_reader import Call, Piece, ReplyReader, Thinking, Thought, Words
from server.serving.stops import StopFinder

CALL_ID_DIGITS = 32
"""As many as nobody's call shares by chance."""


@dataclass(frozen=True, slots=True)
class AnswerStyle:
    """What shapes the events of an answer.

    Attributes:
        name: what tells it from all others but those of the same request; with every engine that works on it the same.
        thinking: where its thoughts are.
        num_top: how many alternatives each token is shown with.
        tool_names: the tools it may call.
    """

    name: str
    stops: Sequence[str]
    output_format: PictureFormat
    thinking: Thinking
    num_top: int
    encoder_quality: int | None = None
    tool_names: Sequence[str] = ()


class Answer:
    """Turns outputs into events for answer number ``choice``."""

    def __init__(self, choice: int, tokenizer: Tokenizer, style: AnswerStyle) -> None:
        self._choice = choice
        self._tokenizer = tokenizer
        self._style = style
        self._decoder = StreamDecoder(tokenizer)
        self._stop_finder = StopFinder(style.stops)
        self._reader = ReplyReader(style.thinking, style.tool_names)
        self._num_parts = 0
        self._num_calls = 0
        self._num_thought_tokens = 0
        self._writes_part = False
        self._unshown: list[ScoredToken] = []
        self.is_stopped = False
        """A stop string has come: nothing more is shown, the engine should be told to end."""

    async def events(self, output: Output) -> list[Event]:
        """Return the events an output gives rise to.

        Raises:
            PlaitError: the engine reports that the request failed.
        """
        match output:
            case FinishedOutput():
                return [*self._close_text(), self._finished(output)]
            case _ if self.is_stopped:
                return []
            case TokenOutput():
                return self._token(output)
            case SilentDraw():
                return []
            case TextClosed():
                return self._close_text()
            case ProgressOutput():
                return [ProgressEvent(self._choice, output.index, output.step, output.num_steps)]
            case PreviewOutput():
                return [await self._preview(output)]
            case ImageOutput():
                return [*self._close_text(), await self._picture(output)]

    def _token(self, output: TokenOutput) -> list[Event]:
        if output.logprob is not None:
            self._unshown.append(self._scored(output.logprob))
        text = self._stop_finder.push(self._decoder.push(output.token_id))
        events = self._plain(text) if self._reader.is_plain else self._show(self._reader.push(text))
        self._num_thought_tokens += self._reader.is_in_thought
        if self._stop_finder.is_found:
            self.is_stopped = True
            self._unshown.clear()
        return events

    def _close_text(self) -> list[Event]:
        """Show what was held back and let the next text be another piece."""
        if self.is_stopped:
            return []
        text = self._stop_finder.push(self._decoder.flush())
        events = self._show([*self._reader.push(text + self._stop_finder.flush()), *self._reader.flush()])
        self._unshown.clear()
        self._decoder = StreamDecoder(self._tokenizer)
        if self._writes_part:
            self._num_parts += 1
            self._writes_part = False
        return events

    def _plain(self, text: str) -> list[Event]:
        """Show words where there is nothing but words."""
        return [self._words(text)] if text else []

    def _show(self, pieces: list[Piece]) -> list[Event]:
        return [self._event(piece) for piece in pieces]

    def _words(self, text: str) -> TextEvent:
        scored, self._unshown = self._unshown, []
        self._writes_part = True
        return TextEvent(self._choice, self._num_parts, text, scored)

    def _event(self, piece: Piece) -> Event:
        match piece:
            case Words():
                return self._words(piece.text)
            case Thought():
                self._unshown.clear()
                return ThoughtEvent(self._choice, piece.text)
            case Call():
                self._unshown.clear()
                self._num_calls += 1
                number = self._num_calls - 1
                return CallEvent(self._choice, number, self._call_id(number), piece.name, piece.arguments)

    def _call_id(self, number: int) -> str:
        """Name a call as it was named when it was written before, by an engine that died or a server that was lost."""
        digest = hashlib.sha256(f"{self._style.name}.{self._choice}.{number}".encode())
        return f"call_{digest.hexdigest()[:CALL_ID_DIGITS]}"

    async def _picture(self, output: ImageOutput) -> Event:
        """Encode a picture, away from the event loop."""
        style, picture = self._style, output.picture
        encoded = await asyncio.to_thread(encode_picture, picture, style.output_format, style.encoder_quality)
        part = self._num_parts
        self._num_parts += 1
        return PictureEvent(self._choice, part, output.index, encoded, style.output_format, (picture.width, picture.height))

    async def _preview(self, output: PreviewOutput) -> Event:
        """Encode a rough picture; WebP, since it is looked at once."""
        encoded = await asyncio.to_thread(encode_picture, output.picture, PictureFormat.WEBP)
        return PreviewEvent(self._choice, output.index, output.preview, output.step, output.num_steps, encoded)

    def _finished(self, output: FinishedOutput) -> Event:
        if self.is_stopped:
            return FinishedEvent(self._choice, FinishReason.STOP, output.usage, self._num_thought_tokens, self._num_calls)
        if output.reason is FinishReason.ERROR:
            raise _failure(output.error_message or "the request failed", output.error_code or PlaitError.code)
        return FinishedEvent(self._choice, output.reason, output.usage, self._num_thought_tokens, self._num_calls)

    def _scored(self, logprob: TokenLogprob) -> ScoredToken:
        top = [self._alternative(token_id, value) for token_id, value in logprob.top[: self._style.num_top]]
        return ScoredToken(self._alternative(logprob.token_id, logprob.logprob), top)

    def _alternative(self, token_id: int, logprob: float) -> AlternativeToken:
        utf8 = self._tokenizer.token_bytes(token_id)
        return AlternativeToken(utf8.decode("utf-8", errors="replace"), utf8, logprob)


def _failure(message: str, code: str) -> PlaitError:
    """Return the engine's word that a request failed as an error of ours."""
    for kind in (EngineUnavailable, Overloaded, DeadlineExceeded):
        if code == kind.code:
            return kind(message)
    return GenerationFailed(message, code)
