"""``GET /v1/models``: the one model served, with what a client needs to know to ask well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from server.api.heads import answer_heads
from server.errors import ModelNotFound
from server.serving.prepare import PromptLimits
from server.serving.served_model import ServedModel


class ImageLimits(BaseModel):
    """Sizes are WIDTHxHEIGHT in pixels; both sides are multiples of ``size_multiple`` up to ``max_side``.

    ``max_per_prompt`` counts the pictures of a whole prompt, those of earlier answers included.
    """

    default_size: str
    offered_sizes: list[str]
    size_multiple: int
    max_side: int
    max_per_prompt: int


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "plait"
    family: str
    input_modalities: list[str]
    output_modalities: list[str]
    max_model_len: int
    image: ImageLimits


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


@dataclass(frozen=True, slots=True)
class ModelRoutes:
    """Describes one model, and what this server reads for it at once."""

    model: ServedModel
    limits: PromptLimits

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/v1/models", self.all_models, methods=["GET"])
        # A slash too many is no name of a model.
        router.add_api_route("/v1/models/", self.all_models, methods=["GET"], include_in_schema=False)
        router.add_api_route("/v1/models/{model_id:path}", self.one_model, methods=["GET"])
        answer_heads(router)
        return router

    async def all_models(self) -> ModelList:
        """List the model."""
        return ModelList(data=[self._card()])

    async def one_model(self, model_id: str) -> ModelCard:
        """Describe the model called ``model_id``."""
        if model_id != self.model.name:
            raise ModelNotFound(f"model: this server serves '{self.model.name}' and no other.", "model")
        return self._card()

    def _card(self) -> ModelCard:
        config, defaults = self.model.config, self.model.profile.defaults
        return ModelCard(
            id=self.model.name,
            created=self.model.created,
            family=self.model.profile.family.value,
            input_modalities=["text", "image"],
            output_modalities=["text", "image"],
            max_model_len=config.llm.max_positions,
            image=ImageLimits(
                default_size=_size(defaults.image_size),
                offered_sizes=[_size(size) for size in defaults.offered_sizes],
                size_multiple=config.latent_stride,
                max_side=config.latent_stride * config.latent_table_side,
                max_per_prompt=self.limits.max_pictures,
            ),
        )


def _size(height_width: tuple[int, int]) -> str:
    height, width = height_width
    return f"{width}x{height}"
