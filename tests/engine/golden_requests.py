"""The golden cases as engine requests: every case of a golden directory, derived from its own `cases.json` and tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from model.config import BagelConfig, ImageTransform
from model.guidance_rules import GuidanceMode, Renorm
from model.profile import Family, FamilyProfile
from model.tokenizer import Tokenizer
from model.transforms import vae_and_vit
from server.messages import ImageParams, ImageSegment, OutputMode, Picture, Request, SamplingParams, Segment, TextSegment


class SamplerCase(TypedDict):
    """Settings of one generation run in `cases.json`."""

    cfg_text_scale: float
    cfg_img_scale: float
    cfg_interval: list[float]
    cfg_renorm_type: str
    num_timesteps: int
    timestep_shift: float


@dataclass(frozen=True, slots=True)
class TextCase:
    """A request whose greedy tokens and log-probabilities are known: ``name``.next_tokens and ``name``.logits."""

    name: str
    request: Request


@dataclass(frozen=True, slots=True)
class ImageCase:
    """A request whose latents after each step are known: ``name``.x, and perhaps ``name``.image_u8."""

    name: str
    request: Request


class GoldenSet:
    """A golden directory: its tensors, tolerances and the requests that should reproduce them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cases = json.loads((path / "cases.json").read_text())
        self.tensors = load_file(path / "cases.safetensors")
        self.tolerances = json.loads((path / "tolerances.json").read_text())
        vae, vit = (ImageTransform(*self.cases["config"][key]) for key in ("vae_tf", "vit_tf"))
        self.config = replace(BagelConfig.from_directory(path), vae_transform=vae, vit_transform=vit)
        self.profile = FamilyProfile.of_family(Family.INTERLEAVED, self.config)
        self.tokenizer = Tokenizer.from_directory(path, self.profile)
        self.noises: list[torch.Tensor] = []

    def atol(self, name: str) -> float:
        return float(self.tolerances[name]["atol_float32"])

    def noise(self, seed: int, image_index: int, num_tokens: int, channels: int) -> torch.Tensor:
        """A noise source: a request's seed is the number of the recorded noise it starts from."""
        noise = self.noises[seed]
        assert noise.shape == (num_tokens, channels)
        return noise

    def text_cases(self) -> list[TextCase]:
        """Every greedy decode: after a text, after a picture, and after each picture of the interleaved chain."""
        config, chain = self.cases["config"], self._chain()
        prompts: dict[str, list[Segment]] = {
            "text.decode": [self._text(config["text_prompt"])],
            "und.decode": [replace(self._picture("und.image_u8"), vae=None), self._text(config["q"])],
            "il.text1": chain[:3],
            "il.text2": chain,
        }
        return [TextCase(name, self._text_request(name, segments)) for name, segments in prompts.items()]

    def image_cases(self) -> list[ImageCase]:
        """Every generation run of `cases.json: gen`, and both pictures of the interleaved chain."""
        config, chain, il = self.cases["config"], self._chain(), self.cases["il"]
        prompt: list[Segment] = [self._text(config["prompt"])]
        edit: list[Segment] = [self._picture("edit.image_u8"), self._text(config["edit_prompt"])]
        edit_size = self._sizes("edit.image_resized_u8")
        cases: list[ImageCase] = []
        for name, run in self.cases["gen"].items():
            is_edit = name.startswith("edit.")
            segments = edit if is_edit else prompt
            size = edit_size if is_edit else (config["t2i"][0], config["t2i"][1])
            cases.append(self._image_case(name, segments, size, run, "edit.noise" if is_edit else "t2i.noise"))
        size = (il["hw"][0], il["hw"][1])
        cases.append(self._image_case("il.image1", chain[:2], size, il["sampler"], "il.noise1"))
        cases.append(self._image_case("il.image2", chain[:4], size, il["sampler"], "il.noise2"))
        return cases

    def three_way_cases(self) -> list[ImageCase]:
        """One Euler step from t = 1 to 0 under eq. 3, for each recorded pair of scales: x1 = noise - v."""
        config = self.cases["config"]
        segments: list[Segment] = [self._picture("edit.image_u8"), self._text(config["edit_prompt"])]
        names = [name for name in self.tensors if name.startswith("threeway.v_t")]
        cases: list[ImageCase] = []
        for name in names:
            text_scale, image_scale = (float(part) for part in name.removeprefix("threeway.v_t").split("_i"))
            params = ImageParams(
                *self._sizes("edit.image_resized_u8"),
                num_timesteps=2,
                guidance=GuidanceMode.ILLUME,
                text_scale=text_scale,
                image_scale=image_scale,
                interval=(0.0, 1.0),
                seed=self._noise_number("edit.noise"),
            )
            cases.append(ImageCase(name, Request(name, segments, OutputMode.IMAGE, SamplingParams(), params)))
        return cases

    def _image_case(self, name: str, segments: list[Segment], size: tuple[int, int], run: SamplerCase, noise: str) -> ImageCase:
        renorm_min = float(self.cases["gen"].get(name, {}).get("cfg_renorm_min", 0.0))
        params = ImageParams(
            *size,
            num_timesteps=run["num_timesteps"],
            timestep_shift=run["timestep_shift"],
            text_scale=run["cfg_text_scale"],
            image_scale=run["cfg_img_scale"],
            interval=(run["cfg_interval"][0], run["cfg_interval"][1]),
            renorm=Renorm(run["cfg_renorm_type"]),
            renorm_min=renorm_min,
            seed=self._noise_number(noise),
        )
        return ImageCase(name, Request(name, segments, OutputMode.IMAGE, SamplingParams(), params))

    def _text_request(self, name: str, segments: list[Segment]) -> Request:
        num_tokens = len(self.tensors[f"{name}.next_tokens"])
        sampling = SamplingParams(max_tokens=num_tokens, logprobs=self.config.llm.vocab_size)
        return Request(name, segments, OutputMode.TEXT, sampling, ImageParams(16, 16))

    def _noise_number(self, name: str) -> int:
        self.noises.append(self.tensors[name])
        return len(self.noises) - 1

    def _text(self, text: str) -> TextSegment:
        return TextSegment(self.tokenizer.encode(text))

    def _picture(self, name: str) -> ImageSegment:
        vae, vit = vae_and_vit(Image.fromarray(self.tensors[name].numpy()), self.config)
        return ImageSegment(vit=_as_picture(vit), vae=_as_picture(vae))

    def _sizes(self, name: str) -> tuple[int, int]:
        height, width, _ = self.tensors[name].shape
        return height, width

    def _chain(self) -> list[Segment]:
        """System text, prompt, picture 1, text 1, picture 2: the recorded pictures and ids, not our own."""
        config, il = self.cases["config"], self.cases["il"]
        return [
            self._text(config["sys"]),
            self._text(config["il_prompt"]),
            self._picture("il.image1_fed_u8"),
            TextSegment(il["text1_ids"]),
            self._picture("il.image2_fed_u8"),
        ]


def _as_picture(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Picture:
    return Picture(pixels.shape[0], pixels.shape[1], pixels.tobytes())
