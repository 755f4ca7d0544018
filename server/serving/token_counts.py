"""How text becomes tokens and back, for clients that count before they ask."""

from __future__ import annotations

from dataclasses import dataclass

from server.errors import InvalidValue, UnsupportedParameter
from server.serving.asks import Ask, TextPart
from server.serving.served_model import ServedModel
from server.serving.tools import text_ids


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts for one model."""

    model: ServedModel

    @property
    def max_tokens(self) -> int:
        """As many as a prompt and its answer may have."""
        return self.model.config.llm.max_positions

    def of_text(self, text: str, *, with_markers: bool) -> list[int]:
        """Return the tokens of a text; ``with_markers`` adds the begin and the end that it has in a prompt."""
        token_ids = self.model.tokenizer.encode(text)
        return self._marked(token_ids) if with_markers else token_ids

    def of_conversation(self, ask: Ask) -> list[int]:
        """Return the tokens of a conversation in words, as the model reads it.

        Raises:
            UnsupportedParameter: it holds a picture, which has no token ids.
        """
        token_ids: list[int] = []
        for message in ask.messages:
            texts = [part for part in message.parts if isinstance(part, TextPart)]
            if len(texts) < len(message.parts):
                reason = f"{message.param}: pictures have no token ids; /v1/responses/input_tokens counts them."
                raise UnsupportedParameter(reason, message.param)
            token_ids += self._marked(text_ids(texts, self.model.tokenizer))
        return token_ids

    def text_of(self, token_ids: list[int]) -> str:
        """Return the text that tokens spell; markers spell nothing.

        Raises:
            InvalidValue: an id that the model does not have.
        """
        vocab_size = self.model.config.llm.vocab_size
        for place, token_id in enumerate(token_ids):
            if token_id >= vocab_size:
                raise InvalidValue(f"tokens[{place}]: there is no token {token_id}; ids are 0 to {vocab_size - 1}.", f"tokens[{place}]")
        return self.model.tokenizer.decode(token_ids)

    def spellings(self, token_ids: list[int]) -> list[str]:
        """Return what each token spells by itself; a part of a character is shown as a replacement."""
        return [self.model.tokenizer.decode([token_id]) for token_id in token_ids]

    def _marked(self, token_ids: list[int]) -> list[int]:
        return [self.model.tokenizer.bos_id, *token_ids, self.model.tokenizer.eos_id]
