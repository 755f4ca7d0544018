"""The contexts and generation runs of a golden set, built with the plain means of `tests.model.dense_context`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from model.bagel import Bagel
from model.flow import schedule
from model.json_object import JsonObject
from model.latents import u8_from_pixels, unpatchify
from model.transforms import vae_and_vit
from tests.model.dense_context import DenseContext, clean_segment, latent_segment, text_segment, vit_segment
from tests.model.golden_set import GoldenSet
from tests.model.reference_guidance import Guidance, guided


@dataclass(frozen=True)
class Branches:
    """The three contexts of guidance (spec 6.3)."""

    full: DenseContext
    no_text: DenseContext
    no_image: DenseContext

    def by_case_name(self) -> dict[str, DenseContext]:
        return {"full": self.full, "cfg_text": self.no_text, "cfg_img": self.no_image}

    def append_text(self, scene: Scene, ids: list[int]) -> Branches:
        """Return the branches after one more text: text-dropped becomes what full was before it."""
        no_text = self.full.copy()
        scene.append_text(self.full, ids)
        scene.append_text(self.no_image, ids)
        return Branches(self.full, no_text, self.no_image)

    def append_picture(self, scene: Scene, image: Image.Image) -> Branches:
        """Return the branches after one more picture, which the image-dropped one does not get."""
        scene.append_picture(self.full, image)
        return Branches(self.full, self.full.copy(), self.no_image)

    def copy(self) -> Branches:
        return Branches(self.full.copy(), self.no_text.copy(), self.no_image.copy())


@dataclass(frozen=True)
class Step:
    """One evaluation: the branch velocities the reference would evaluate, their combination, and the latents before it."""

    x_t: Tensor
    v: Tensor
    v_full: Tensor
    v_cfg_text: Tensor | None
    v_cfg_img: Tensor | None


@dataclass(frozen=True)
class Scene:
    """A golden set's model with the verbs of spec 6.3."""

    golden: GoldenSet

    @property
    def model(self) -> Bagel:
        return self.golden.model

    @property
    def markers(self) -> tuple[int, int]:
        return self.golden.tokenizer.boi_id, self.golden.tokenizer.eoi_id

    def branches(self) -> Branches:
        return Branches(*(DenseContext.empty(self.model) for _ in range(3)))

    def encode(self, text: str) -> list[int]:
        """Return BOS, the text's ids, EOS."""
        tokenizer = self.golden.tokenizer
        return [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]

    def append_text(self, context: DenseContext, ids: list[int]) -> Tensor:
        """Append a closed text and return the logits of every row."""
        return self.model.logits(context.append(self.model, text_segment(self.model, ids)))

    def append_picture(self, context: DenseContext, image: Image.Image) -> Tensor:
        """Append a picture as the reference feeds it to editing: VAE, then ViT. Returns the logits of the last end-of-image row."""
        vae_rgb, vit_rgb = self.resized(image)
        context.append(self.model, clean_segment(self.model, vae_rgb, self.markers))
        hidden = context.append(self.model, vit_segment(self.model, vit_rgb, self.markers))
        return self.model.logits(hidden[-1:])[0]

    def append_seen(self, context: DenseContext, image: Image.Image) -> None:
        """Append a picture for understanding only: no VAE segment."""
        context.append(self.model, vit_segment(self.model, self.resized(image)[1], self.markers))

    def resized(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """Return the 8-bit pixels for the VAE and for the ViT."""
        vae_rgb, vit_rgb = vae_and_vit(image, self.golden.config)
        return torch.from_numpy(vae_rgb), torch.from_numpy(vit_rgb)

    def velocity(self, context: DenseContext, x_t: Tensor, t: float, image_size: tuple[int, int]) -> Tensor:
        """Evaluate one branch: the velocity ``[n, C]`` of every latent token."""
        hidden = context.look(self.model, latent_segment(self.model, x_t, t, image_size, self.markers))
        return self.model.velocity(hidden[1:-1])

    def denoise(self, branches: Branches, noise: Tensor, image_size: tuple[int, int], case: JsonObject) -> Iterator[Step]:
        """Follow the sampler of spec 6.1, evaluating the branches the reference would."""
        guidance = Guidance.read(case)
        x_t = noise
        times, steps = schedule(case.positive("num_timesteps"), case.number("timestep_shift"))
        for t, dt in zip(times.tolist(), steps.tolist(), strict=True):
            v = self.velocity(branches.full, x_t, t, image_size)
            with_text = guidance.is_on(t) and guidance.text_scale > 1
            with_image = guidance.is_on(t) and guidance.image_scale > 1
            u = self.velocity(branches.no_text, x_t, t, image_size) if with_text else None
            w = self.velocity(branches.no_image, x_t, t, image_size) if with_image else None
            combined = guided(v, u, w, guidance)
            yield Step(x_t, combined, v, u, w)
            x_t = x_t - combined * dt

    def expect_run(self, prefix: str, branches: Branches, noise: Tensor, case: JsonObject) -> None:
        """Follow one recorded generation run: times, velocities, latents, picture."""
        golden = self.golden
        height, width, _ = golden.tensors[f"{prefix}.image_u8"].shape
        times, dts = schedule(case.positive("num_timesteps"), case.number("timestep_shift"))
        golden.expect(f"{prefix}.t", torch.from_numpy(times))
        steps = list(self.denoise(branches, noise, (height, width), case))
        actual = {f"{prefix}.step{i}.{name}": v for i, step in enumerate(steps) for name, v in _velocities(step).items()}
        golden.expect_all(rf"{_escaped(prefix)}\.step\d+\.v\w*", actual)
        last = steps[-1].x_t - steps[-1].v * float(dts[-1])
        golden.expect(f"{prefix}.x", torch.stack([step.x_t for step in steps] + [last]))
        decoded = self.decode(last, (height, width))
        golden.expect_if_recorded(f"{prefix}.image", decoded[0])
        golden.expect_picture(f"{prefix}.image_u8", u8_from_pixels(decoded))

    def decode(self, x: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Decode latent tokens to ``[1, 3, H, W]``."""
        config = self.model.config
        rows, columns = image_size[0] // config.latent_stride, image_size[1] // config.latent_stride
        return self.model.vae.decode(unpatchify(x, rows, columns, config.latent_patch_size)[None])

    def expect_greedy(self, prefix: str, context: DenseContext) -> None:
        """Feed the recorded tokens to a copy of the context; logits and greedy choices must be the recorded ones."""
        fed = self.golden.tensors[f"{prefix}.tokens_fed"].tolist()
        assert fed[0] == self.golden.tokenizer.bos_id
        answering = context.copy()
        logits = torch.cat([self.append_text(answering, [token]) for token in fed])
        self.golden.expect(f"{prefix}.logits", logits)
        self.golden.expect(f"{prefix}.next_tokens", logits.argmax(dim=-1))
        assert logits.argmax(dim=-1).tolist()[:-1] == fed[1:]


@dataclass(frozen=True)
class TextScene:
    """A prompt of ``ids`` appended to an empty context, and the logits of its rows."""

    ids: list[int]
    context: DenseContext
    logits: Tensor


@dataclass(frozen=True)
class ChainStage:
    """One picture of the interleaved chain: the contexts before it, what follows it, and the logits that chose what came next."""

    before_image: Branches
    eoi_logits: Tensor
    after_image: DenseContext
    text_logits: Tensor | None


def interleaved_chain(scene: Scene) -> dict[int, ChainStage]:
    """Build the chain system, prompt, picture, text, picture, text, feeding the recorded pictures and texts; stages by number."""
    golden, case = scene.golden, scene.golden.cases.child("il")
    branches = scene.branches().append_text(scene, scene.encode(case.string("system")))
    branches = branches.append_text(scene, scene.encode(case.string("prompt")))
    stages: dict[int, ChainStage] = {}
    while f"il.image{len(stages) + 1}.x" in golden.tensors:
        number = len(stages) + 1
        before_image = branches.copy()
        eoi_logits = scene.append_picture(branches.full, golden.picture(f"il.image{number}_fed_u8"))
        after_image = branches.full.copy()
        branches = Branches(branches.full, after_image.copy(), branches.no_image)
        text_logits = None
        if f"il.text{number}_prefill_ids" in golden.tensors:
            ids = golden.tensors[f"il.text{number}_prefill_ids"].tolist()
            text_logits = scene.append_text(branches.full, ids)
            scene.append_text(branches.no_image, ids)
        stages[number] = ChainStage(before_image, eoi_logits, after_image, text_logits)
    return stages


def expect_counters(context: DenseContext, case: JsonObject) -> None:
    """Assert the cache length and the next rotary position."""
    assert (context.kv_len, context.next_rope) == (case.number("kv_len"), case.number("next_rope"))


def _velocities(step: Step) -> dict[str, Tensor]:
    named = {"v": step.v, "v_full": step.v_full, "v_cfg_text": step.v_cfg_text, "v_cfg_img": step.v_cfg_img}
    return {name: v for name, v in named.items() if v is not None}


def _escaped(prefix: str) -> str:
    return prefix.replace(".", r"\.")
