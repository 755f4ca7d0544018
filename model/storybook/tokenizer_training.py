"""The tokenizer's stage: a small byte-level BPE learnt from the world's own sentences, in the files of a Qwen2.5 checkpoint.

Every word of the world becomes one token; all 256 bytes stay, so that any text can be encoded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

from tokenizers import AddedToken, models, pre_tokenizers, trainers

from model.profile import THINK_IMAGE_PROMPT
from model.random_checkpoint import ADDED_TOKENS, SPECIAL_TOKENS
from model.storybook.captions import caption, prompt
from model.storybook.chat import GREETING_ANSWER, OUTSIDE_ANSWER, SELF_ANSWER, caption_exchange, question_exchange, small_talk
from model.storybook.edits import instruction, random_edit
from model.storybook.riddles import training_riddle
from model.storybook.sampling import SceneKind, random_scene
from model.storybook.stories import training_story
from model.tokenizer import MERGES, TOKENIZER_CONFIG, TOKENIZER_JSON, VOCAB, byte_level_tokenizer

MAX_VOCABULARY = 1024
"""Bytes, merges and special tokens together."""
NUM_ROUNDS = 1500
"""Rounds of sentences, one of each task, that the merges are learnt from."""


def train_tokenizer(directory: Path, seed: int = 0, num_rounds: int = NUM_ROUNDS) -> int:
    """Learn the merges, write ``vocab.json``, ``merges.txt``, ``tokenizer_config.json`` and ``tokenizer.json``; return the vocabulary."""
    directory.mkdir(parents=True, exist_ok=True)
    num_added = len(SPECIAL_TOKENS) + len(ADDED_TOKENS)
    learner = byte_level_tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY - num_added,
        min_frequency=3,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(_sentences(Random(f"{seed} tokenizer"), num_rounds), trainer)
    learnt = json.loads(learner.to_str())["model"]
    vocabulary: dict[str, int] = learnt["vocab"]
    merges = [(first, second) for first, second in learnt["merges"]]
    _write(directory, vocabulary, merges)
    return len(vocabulary) + num_added


def _write(directory: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
    _write_json(directory / VOCAB, vocabulary)
    lines = [f"{first} {second}\n" for first, second in merges]
    (directory / MERGES).write_text("#version: 0.2\n" + "".join(lines), encoding="utf-8")
    added = {
        str(len(vocabulary) + index): {
            "content": name,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": name in SPECIAL_TOKENS,
        }
        for index, name in enumerate(SPECIAL_TOKENS + ADDED_TOKENS)
    }
    _write_json(
        directory / TOKENIZER_CONFIG,
        {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    )
    fast = byte_level_tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    fast.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS])
    fast.add_tokens([AddedToken(name, special=False, normalized=False) for name in ADDED_TOKENS])
    fast.save(str(directory / TOKENIZER_JSON))


def _sentences(rng: Random, num_rounds: int) -> Iterator[str]:
    """Yield the sentences of every task; the held-out combinations use the same words."""
    yield from [THINK_IMAGE_PROMPT, GREETING_ANSWER, OUTSIDE_ANSWER, SELF_ANSWER] * 50
    for _ in range(num_rounds):
        scene = random_scene(rng, rng.choice(tuple(SceneKind)))
        yield prompt(scene, rng)
        yield caption(scene)
        for exchange in (caption_exchange(scene, rng), question_exchange(scene, rng), small_talk(rng)):
            yield exchange.question
            yield exchange.answer
        if not scene.is_count:
            yield instruction(random_edit(scene, rng), scene, rng)
        riddle = training_riddle(rng)
        yield riddle.prompt
        yield riddle.thought
        story = training_story(rng)
        yield story.prompt
        yield from (panel.text for panel in story.panels)


def _write_json(path: Path, fields: Mapping[str, object]) -> None:
    path.write_text(json.dumps(fields, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
