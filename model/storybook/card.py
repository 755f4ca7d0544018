"""The model card of a finished storybook: how it was made, from what its stages left behind, and what it can do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from model.storybook.sampling import HELD_OUT_PAIRS

CARD = """\
# Storybook

A very small model of BAGEL's layout (two experts, ViT, FLUX-layout VAE) that lives in a world of five shapes, six colours, two sizes,
nine places and three times of day. It draws pictures of 64 x 64 or 96 x 64 pixels from words, edits them, describes them, answers
questions about them and tells stories of two to six panels. It is Plait's default model, and its quality gauge: a program
(`model/storybook/judge.py`) reads every picture back.

## Data
Everything is drawn and written by `model/storybook` (`scenes.py`, `captions.py`, `edits.py`, `stories.py`, `chat.py`, `riddles.py`);
nothing was collected or downloaded. Held out of every task: the colour-shape pairs {pairs};
and by a stable hash one layout in eight (but of layouts that differ in the background alone at most one), one pair of things in eight,
one (number, shape, colour) in seven, one (subject, length of story) in eight. The VAE, which only encodes pixels, also saw shapes in any
colour that is far from the one held out for them. A third of the pictures to be read or edited hold things in
colours without a name, whose hue is far from the colour held out for their shape; captions leave such a colour out.

## Training
{stages}
The files `plot-*.svg` beside this card show the curves of each stage.

## Scores
{scores}

## Limits
It knows nothing but its world: other requests get one fixed, friendly answer. What a prompt leaves out has a fixed meaning (no size is
big, no place is the middle, "A and B" is A on the left); only the background, and a colour that is not said, vary with the seed.
Pictures hold at most four things, never touching. Faces, letters, photographs and other sizes are outside what it has seen.
"""


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage's last checkpoint and report, as `model.storybook.run` wrote them, and what its operator noted in ``notes.md``."""

    name: str
    state: dict[str, object]
    figures: dict[str, float]
    notes: str

    @classmethod
    def read(cls, directory: Path) -> StageRecord:
        last_report = (directory / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
        state = json.loads((directory / "state.json").read_text(encoding="utf-8"))
        notes = directory / "notes.md"
        return cls(directory.name, state, json.loads(last_report), notes.read_text(encoding="utf-8") if notes.exists() else "")

    def text(self) -> str:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in self.figures.items() if name not in ("step", "seconds"))
        minutes = float(str(self.state["trained_s"])) / 60
        return (
            f"- **{self.name}**: `{self.state['command']}`, {self.state['step']} steps in {minutes:.0f} minutes "
            f"on {self.state['machine']}, shared with other work. Last figures: {figures}. {self.notes}".rstrip()
        )


def write_card(directory: Path, stages: list[StageRecord], scores: Path | None) -> None:
    """Write ``README.md`` into a model directory; ``scores`` is a file that `loadtests.storybook.evaluate` wrote."""
    pairs = ", ".join(sorted(f"{colour.value} {shape.value}" for shape, colour in HELD_OUT_PAIRS))
    text = CARD.format(pairs=pairs, stages="\n".join(stage.text() for stage in stages), scores=_scores(scores))
    (directory / "README.md").write_text(text, encoding="utf-8")


def _scores(path: Path | None) -> str:
    if path is None:
        return "Not measured yet: `python -m loadtests.storybook.evaluate` prints them for a running server."
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    lines = ["Through HTTP, on prompts held out of the training (`python -m loadtests.storybook.evaluate`):", ""]
    lines += ["| row | right | 95 % interval | n |", "|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {row.get('right', 0):.3f} | {row['low']:.3f} to {row['high']:.3f} | {row['n']} |")
    return "\n".join(lines)
