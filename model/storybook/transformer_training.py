"""The transformer's stage: ViT and both experts learn every task together, drawing first, from single things to all scenes.

A step is one batch of pictures from text (with several noises for each text), of edits or of questions, in turn, and one batch of any
task; on a CPU each has a thread of its own, which waits for the other once a step. Gradients of both are added. Every step's
random numbers follow from the seed and the step's number, so that a stopped run goes on as it would have.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from model.bagel import Bagel
from model.storybook.bank import Bank
from model.storybook.episodes import Episode, Part, PicturePart, Role, Task, make_episode, without_pictures, without_texts
from model.storybook.losses import TRAINING_SHIFT, Losses, compute_losses
from model.storybook.optimiser import Optimiser, OptimiserConfig, multiplies_bfloat16
from model.storybook.packing import Geometry, Packer
from model.storybook.probes import Prober
from model.storybook.run import Means, Run, rate_factor
from model.tokenizer import Tokenizer

SQUARE = Geometry(latent_grid=(2, 2), vit_grid=(4, 4))
WIDE = Geometry(latent_grid=(2, 3), vit_grid=(4, 6))
NUM_BATCHES = 2
"""Batches of a step."""
WIDE_SHARE = 0.15
"""Share of the batches in the wide format."""
DROP_TEXTS, DROP_PICTURES = 0.06, 0.04
"""Shares of what is drawn after other pictures shown without any text, or without the pictures, for guidance (spec 8.4, 6.3)."""
NUM_EARLIER, EARLIER_WEIGHTS = (0, 1, 2, 3), (9, 6, 3, 2)
"""How many exchanges the examples of a batch come after, and how often. Those of a conversation are longer, and fewer to a batch."""


@dataclass(frozen=True, slots=True)
class Share:
    """How often a task takes the second batch of a step, how many episodes it then has, and noises for each drawn picture.

    ``shift`` moves the noises' times towards noise, where what to draw is still open.
    """

    task: Task
    weight: int
    num_episodes: int
    num_copies: int
    shift: float = TRAINING_SHIFT


ASK = Share(Task.ASK, weight=1, num_episodes=32, num_copies=1)
EDIT = Share(Task.EDIT, weight=10, num_episodes=28, num_copies=2, shift=4.0)
SHARES = (
    ASK,
    EDIT,
    Share(Task.STORY, weight=6, num_episodes=4, num_copies=4),
    Share(Task.CHAT, weight=2, num_episodes=14, num_copies=4),
    Share(Task.THINK, weight=1, num_episodes=12, num_copies=4),
    Share(Task.TALK, weight=1, num_episodes=32, num_copies=1),
)


@dataclass(frozen=True, slots=True)
class TransformerSettings:
    """How the transformer is trained: ``batch_size`` texts a step, ``num_copies`` noises for each.

    In the first ``num_easy`` steps only single things are drawn. The learning rate is constant but for the last ``num_decay`` steps, so
    that a run may be resumed with another number of steps.
    """

    num_steps: int = 12_000
    num_decay: int = 4000
    num_easy: int = 300
    batch_size: int = 32
    num_copies: int = 8
    words_weight: float = 1.0
    num_warm: int = 50
    report_every: int = 250
    num_probes: int = 24
    seed: int = 0
    optimiser: OptimiserConfig = OptimiserConfig(learning_rate=4e-3, weight_decay=0.1, average_decay=0.998)


class TransformerTraining:
    """A model, its optimiser and its examples, one step after another."""

    def __init__(self, model: Bagel, tokenizer: Tokenizer, settings: TransformerSettings) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._settings = settings
        self._bank = Bank(model.vae, model.config.latent_patch_size, model.device)
        model.vae.requires_grad_(False)
        learnt = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.optimiser = Optimiser(learnt, _matrix_names(learnt), settings.optimiser)
        num_workers = 1 if model.device.type == "cuda" else NUM_BATCHES
        self._workers = ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,))

    def run(self, run: Run) -> None:
        """Train from the run's checkpoint to the last step, and leave the averaged weights in the model."""
        run.load(self.optimiser)
        means = Means()
        while self.optimiser.num_steps < self._settings.num_steps:
            means.add(self.step())
            done = self.optimiser.num_steps
            if done % self._settings.report_every == 0 or done == self._settings.num_steps:
                run.report(done, means.take() | self.probe())
                run.save(self.optimiser)
        self._use(self.optimiser.averaged())

    def step(self) -> dict[str, float]:
        """Make one step and return its losses by name."""
        number, settings = self.optimiser.num_steps, self._settings
        rng = Random(f"{settings.seed} transformer {number}")
        is_easy = number < settings.num_easy
        draw = Share(Task.DRAW_EASY if is_easy else Task.DRAW, 1, settings.batch_size, settings.num_copies)
        first = draw if is_easy else (draw, EDIT, ASK, EDIT)[number % 4]
        second = draw if is_easy else rng.choices(SHARES, [share.weight for share in SHARES])[0]
        seeds = (rng.getrandbits(60), rng.getrandbits(60))
        figures: dict[str, float] = {}
        for batch_figures, gradients in self._workers.map(self._gradients, (first, second), seeds):
            figures |= batch_figures
            self._add(gradients)
        rate = rate_factor(number, settings.num_steps, settings.num_warm, settings.num_decay)
        return figures | {"gradient": self.optimiser.step(rate, self._workers)}

    def _add(self, gradients: tuple[Tensor | None, ...]) -> None:
        for parameter, gradient in zip(self.optimiser.parameters.values(), gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def _gradients(self, share: Share, seed: int) -> tuple[dict[str, float], tuple[Tensor | None, ...]]:
        """Return the losses and gradients of one batch of a task. Called by several threads: changes nothing but the bank."""
        rng, device = Random(seed), self._model.device
        generator = torch.Generator(device).manual_seed(seed)
        wide = rng.random() < WIDE_SHARE
        geometry = WIDE if wide else SQUARE
        num_earlier = rng.choices(NUM_EARLIER, EARLIER_WEIGHTS)[0]
        number = max(1, share.num_episodes * SQUARE.num_latents // geometry.num_latents // (1 + num_earlier))
        episodes = [_thinned(make_episode(share.task, rng, wide, num_earlier), rng) for _ in range(number)]
        batch = Packer(self._tokenizer, geometry, share.num_copies).pack(episodes, rng).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bfloat16(device), cache_enabled=False):
            losses = compute_losses(self._model, self._bank, batch, geometry, generator, share.shift)
        total = losses.total(self._settings.words_weight)
        return _figures(share.task, losses), torch.autograd.grad(total, list(self.optimiser.parameters.values()), allow_unused=True)

    def probe(self) -> dict[str, float]:
        """Judge the averaged weights on held-out scenes, then put the trained ones back."""
        trained = {name: parameter.detach().clone() for name, parameter in self.optimiser.parameters.items()}
        self._use(self.optimiser.averaged())
        prober = Prober(self._model, self._bank, Packer(self._tokenizer, SQUARE, num_copies=1))
        figures = prober.drawn_right(self._settings.num_probes, self._settings.seed)
        figures["captioned"] = prober.captioned_right(2 * self._settings.num_probes, self._settings.seed)
        self._use(trained)
        return figures

    @torch.no_grad()
    def _use(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.optimiser.parameters.items():
            parameter.copy_(weights[name])


def _thinned(episode: Episode, rng: Random) -> Episode:
    """Now and then show what is drawn after other pictures as guidance's branches will: without texts, or without pictures."""
    pictures = [index for index, part in enumerate(episode) if isinstance(part, PicturePart)]
    drawn = [index for index in pictures if _is_drawn(episode[index])]
    if len(pictures) < 2 or not drawn or (draw := rng.random()) >= DROP_TEXTS + DROP_PICTURES:
        return episode
    shown = episode[: rng.choice(drawn) + 1]
    return without_texts(shown) if draw < DROP_TEXTS else without_pictures(shown)


def _is_drawn(part: Part) -> bool:
    return isinstance(part, PicturePart) and part.role is Role.DRAWN


def _figures(task: Task, losses: Losses) -> dict[str, float]:
    figures = {}
    if losses.flow is not None:
        figures[f"flow_{task.value}"] = float(losses.flow.detach())
    if losses.words is not None:
        figures[f"words_{task.value}"] = float(losses.words.detach())
    return figures


def _matrix_names(parameters: Mapping[str, Tensor]) -> frozenset[str]:
    """The matrices inside the layers; embeddings, heads and the first and last projections are not for Muon."""
    inside = ("layers.", "vit.layers.", "connector.")
    return frozenset(name for name, parameter in parameters.items() if parameter.ndim == 2 and name.startswith(inside))
