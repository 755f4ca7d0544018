"""Training examples as the server will see them: an ordered list of texts and pictures, some read, some to be written or drawn.

picture from text   [prompt] [DRAWN]                              straight after the prompt (image mode)
chat                [prompt] [reply -> BOI] [DRAWN, EOI -> end]   the model speaks, then decides to draw, then to stop
edit                [picture] [instruction] [DRAWN]
question, caption   [picture, ViT alone or both] [question] [reply -> end]
story               [prompt] ([panel text -> BOI] [DRAWN, EOI -> BOS])... the last EOI -> end
think               [system] [prompt] [thought] [DRAWN]
talk                [question] [reply -> end]

Any of them but think may follow earlier exchanges of a conversation, which it has nothing to do with.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random

from model.profile import THINK_IMAGE_PROMPT
from model.storybook.captions import caption, prompt
from model.storybook.chat import caption_exchange, outside_talk, question_exchange, small_talk
from model.storybook.edits import Edit, apply, instruction, random_edit
from model.storybook.riddles import training_riddle
from model.storybook.sampling import SceneKind, is_held_out, pooled_scene, tinted_scene
from model.storybook.scenes import Scene
from model.storybook.stories import training_story

EARLIER_TURN = 0.25
"""Share of the given pictures that were drawn earlier in the same conversation."""
TINTED = 0.35
"""Share of the pictures to be read or edited whose things have colours without a name."""
AFTER_TALK = 0.15
"""Share of the edits and questions in a conversation that come after other words than those the picture came with."""
DRAWN_SILENTLY = 0.25
"""Share of the earlier pictures that came without a reply."""
CHANGED_AT_ONCE = 0.25
"""Share of the earlier pictures that were changed in the exchange after."""
EDITED_KINDS = (SceneKind.SINGLE, SceneKind.PAIR, SceneKind.PAIR, SceneKind.PAIR)


class Next(Enum):
    """What the model must choose after a closed text or a picture."""

    UNTRAINED = "untrained"
    PICTURE = "picture"
    TEXT = "text"
    END = "end"


class Role(Enum):
    """What a picture is for. READ: seen by the ViT alone. GIVEN: clean latents and ViT. DRAWN: noisy copies first, then as GIVEN."""

    READ = "read"
    GIVEN = "given"
    DRAWN = "drawn"


@dataclass(frozen=True, slots=True)
class TextPart:
    """A closed text. ``is_written``: the model learns to write it; ``then``: what it chooses after it."""

    text: str
    is_written: bool = False
    then: Next = Next.UNTRAINED


@dataclass(frozen=True, slots=True)
class PicturePart:
    """A picture; a drawn one after which nothing is chosen is not read again."""

    scene: Scene
    role: Role
    then: Next = Next.UNTRAINED


Part = TextPart | PicturePart
Episode = tuple[Part, ...]


class Task(Enum):
    DRAW_EASY = "draw_easy"
    DRAW = "draw"
    CHAT = "chat"
    EDIT = "edit"
    ASK = "ask"
    STORY = "story"
    THINK = "think"
    TALK = "talk"


def make_episode(task: Task, rng: Random, wide: bool, num_earlier: int = 0) -> Episode:
    """Draw a training example of a task after ``num_earlier`` exchanges about something else, all its pictures in one format."""
    episode = _episode(task, rng, wide, in_conversation=num_earlier > 0)
    if not num_earlier or task is Task.THINK:
        return episode
    role = Role.READ if any(isinstance(part, PicturePart) and part.role is Role.READ for part in episode) else Role.GIVEN
    earlier = [part for _ in range(num_earlier) for part in _earlier_exchange(rng, wide, role)]
    return (*earlier, *episode)


def _episode(task: Task, rng: Random, wide: bool, *, in_conversation: bool) -> Episode:
    match task:
        case Task.DRAW_EASY:
            return _drawn_after_prompt(pooled_scene(rng, SceneKind.SINGLE, wide), rng)
        case Task.DRAW:
            return _drawn_after_prompt(pooled_scene(rng, _any_kind(rng), wide), rng)
        case Task.CHAT:
            return _chat(pooled_scene(rng, _any_kind(rng), wide), rng)
        case Task.EDIT:
            return _edit(_given_scene(rng, EDITED_KINDS, wide), rng, in_conversation=in_conversation)
        case Task.ASK:
            return _ask(_given_scene(rng, tuple(SceneKind), wide), rng, in_conversation=in_conversation)
        case Task.STORY:
            return _story(rng, wide)
        case Task.THINK:
            return _think(rng, wide)
        case Task.TALK:
            return _talk(rng)


def _earlier_exchange(rng: Random, wide: bool, role: Role) -> Episode:
    """What was asked for and answered before: mostly a picture, else words."""
    if rng.random() < 0.3:
        return _closed_talk(rng)
    scene = pooled_scene(rng, rng.choice(EDITED_KINDS), wide)
    asked = _shown(prompt(scene, rng), scene, rng, role)
    if rng.random() >= CHANGED_AT_ONCE:
        return asked
    edit, changed = _change(scene, rng)
    return (*asked, *_shown(instruction(edit, scene, rng), changed, rng, role))


def _shown(words: str, scene: Scene, rng: Random, role: Role) -> Episode:
    reply: Episode = () if rng.random() < DRAWN_SILENTLY else (TextPart(caption(scene)),)
    return (TextPart(words), *reply, PicturePart(scene, role))


def _change(scene: Scene, rng: Random) -> tuple[Edit, Scene]:
    """Draw a change and what it makes of a scene, which is not held out."""
    while is_held_out(changed := apply(edit := random_edit(scene, rng), scene)):
        pass
    return edit, changed


def _closed_talk(rng: Random) -> Episode:
    exchange = small_talk(rng) if rng.random() < 0.5 else outside_talk(rng)
    return (TextPart(exchange.question), TextPart(exchange.answer))


def _drawn_after_prompt(scene: Scene, rng: Random) -> Episode:
    """The caption itself is a prompt now and then: in a chat the model draws from its own."""
    words = caption(scene) if rng.random() < 0.2 else prompt(scene, rng)
    return (TextPart(words), PicturePart(scene, Role.DRAWN))


def _chat(scene: Scene, rng: Random) -> Episode:
    reply = TextPart(caption(scene), is_written=True, then=Next.PICTURE)
    return (TextPart(prompt(scene, rng)), reply, PicturePart(scene, Role.DRAWN, then=Next.END))


def _edit(scene: Scene, rng: Random, *, in_conversation: bool) -> Episode:
    edit, changed = _change(scene, rng)
    given: Episode = (*_earlier_turn(scene, rng), PicturePart(scene, Role.GIVEN))
    asked = (*given, *_talk_between(rng, in_conversation=in_conversation), TextPart(instruction(edit, scene, rng)))
    if rng.random() < 0.6:
        return (*asked, PicturePart(changed, Role.DRAWN))
    reply = TextPart(caption(changed), is_written=True, then=Next.PICTURE)
    return (*asked, reply, PicturePart(changed, Role.DRAWN))


def _earlier_turn(scene: Scene, rng: Random) -> Episode:
    """Now and then a picture comes from earlier in the conversation: what was asked for then, and the reply it came with."""
    if any(thing.tint for thing in scene.things) or rng.random() >= EARLIER_TURN:
        return ()
    return (TextPart(prompt(scene, rng)), TextPart(caption(scene)))


def _talk_between(rng: Random, *, in_conversation: bool) -> Episode:
    """Now and then other words come between a picture and what is asked about it."""
    return _closed_talk(rng) if in_conversation and rng.random() < AFTER_TALK else ()


def _given_scene(rng: Random, kinds: tuple[SceneKind, ...], wide: bool) -> Scene:
    kind = rng.choice(kinds)
    return tinted_scene(rng, kind, wide) if rng.random() < TINTED else pooled_scene(rng, kind, wide)


def _ask(scene: Scene, rng: Random, *, in_conversation: bool) -> Episode:
    exchange = caption_exchange(scene, rng) if rng.random() < 0.5 else question_exchange(scene, rng)
    role = Role.READ if rng.random() < 0.6 else Role.GIVEN
    earlier = _earlier_turn(scene, rng) if role is Role.GIVEN else ()
    between = _talk_between(rng, in_conversation=in_conversation)
    asked, answered = TextPart(exchange.question), TextPart(exchange.answer, is_written=True, then=Next.END)
    return (*earlier, PicturePart(scene, role), *between, asked, answered)


def _story(rng: Random, wide: bool) -> Episode:
    story = training_story(rng, wide)
    parts: list[Part] = [TextPart(story.prompt)]
    for number, panel in enumerate(story.panels, start=1):
        is_last = number == len(story.panels)
        parts.append(TextPart(panel.text, is_written=True, then=Next.PICTURE))
        parts.append(PicturePart(panel.scene, Role.DRAWN, then=Next.END if is_last else Next.TEXT))
    return tuple(parts)


def _think(rng: Random, wide: bool) -> Episode:
    riddle = training_riddle(rng, wide)
    thought = TextPart(riddle.thought, is_written=True)
    return (TextPart(THINK_IMAGE_PROMPT), TextPart(riddle.prompt), thought, PicturePart(riddle.scene, Role.DRAWN))


def _talk(rng: Random) -> Episode:
    exchange = small_talk(rng) if rng.random() < 0.3 else outside_talk(rng)
    return (TextPart(exchange.question), TextPart(exchange.answer, is_written=True, then=Next.END))


def _any_kind(rng: Random) -> SceneKind:
    return rng.choice((SceneKind.SINGLE, SceneKind.PAIR, SceneKind.PAIR, SceneKind.COUNT))


def without_texts(episode: Episode) -> Episode:
    """Keep the pictures up to and with the last drawn one: what guidance sees when all text is dropped (spec 8.4, v_img)."""
    pictures = [part for part in episode if isinstance(part, PicturePart)]
    return (*(PicturePart(part.scene, Role.GIVEN) for part in pictures[:-1]), PicturePart(pictures[-1].scene, Role.DRAWN))


def without_pictures(episode: Episode) -> Episode:
    """Keep the texts and the last drawn picture: what guidance sees when the pictures are dropped (spec 6.3, W)."""
    last = next(part for part in reversed(episode) if isinstance(part, PicturePart))
    return (*(TextPart(part.text) for part in episode if isinstance(part, TextPart)), PicturePart(last.scene, Role.DRAWN))
