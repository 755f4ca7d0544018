"""The model directory: is everything there and whole, and does it fit into the memory of the device?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint_files import main_tensors, vae_tensors
from model.errors import CheckpointError
from model.tokenizer import Tokenizer
from server.cli.doctor.finding import Finding, fault, fine, gigabytes, warning
from server.cli.doctor.machine import Accelerator, chosen_dtype
from server.engine.memory_plan import PictureRoom, page_bytes, pages_that_fit, weight_bytes
from server.serving.served_model import ServedModel
from server.settings import Settings

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}
PROBE_TEXT = "A red balloon, 3 kites & a café 🎈"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model directory that can be read. ``num_values`` counts the numbers of all tensors but the VAE's."""

    model: ServedModel
    tokenizer: Tokenizer
    num_values: int
    num_vae_values: int


def read_checkpoint(path: Path, family: str | None) -> Checkpoint:
    """Read all of a directory but the weights themselves, and see that they are those of its configuration.

    Raises:
        CheckpointError: names the file, the tensor and what was expected.
    """
    from model.weights import check_weights

    model = ServedModel.from_directory(path, path.name, family)
    check_weights(path)
    main, vae = (sum(math.prod(tensor.shape) for tensor in tensors.values()) for tensors in (main_tensors(path), vae_tensors(path)))
    return Checkpoint(model, model.tokenizer, main, vae)


def check_checkpoint(path: Path, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Say what a directory that could be read holds."""
    num_values = checkpoint.num_values + checkpoint.num_vae_values
    family = checkpoint.model.profile.family.value
    yield fine("model", f"{path.name}: {num_values / 1e6:,.1f} million parameters of the {family} family, every tensor in its place")
    ids = checkpoint.tokenizer.encode(PROBE_TEXT)
    if checkpoint.tokenizer.decode(ids) == PROBE_TEXT:
        yield fine("tokenizer", f"gives back what it is given ({len(ids)} tokens for {len(PROBE_TEXT)} characters)")
    else:
        yield warning("tokenizer", "does not give back the text that it is given", "check tokenizer.json against the model's publication")


def unreadable(path: Path, error: CheckpointError) -> Finding:
    """Say what is wrong with a directory, and what to do about it."""
    if not path.is_dir():
        return fault("model", f"there is no directory {path}", "--model DIR, with the directory of a BAGEL-layout checkpoint")
    return fault("model", str(error), "fetch the named file again, or compare its size with the publication's")


def check_memory(checkpoint: Checkpoint, accelerator: Accelerator, settings: Settings) -> Iterator[Finding]:
    """Plan the memory of the device as the engine will, and say whether it is enough."""
    llm = checkpoint.model.config.llm
    element_bytes = ELEMENT_BYTES[chosen_dtype(settings.dtype, accelerator)]
    weights = weight_bytes(checkpoint.num_values, checkpoint.num_vae_values, element_bytes)
    each = page_bytes(llm, settings.page_size, element_bytes)
    left = accelerator.free_bytes - weights
    if left <= 0:
        says = f"the weights take {gigabytes(weights)}, and {gigabytes(accelerator.free_bytes)} are free: too little memory"
        smaller = "--dtype bfloat16 halves the weights; else " if element_bytes > ELEMENT_BYTES["bfloat16"] else ""
        yield fault("memory", says, f"{smaller}free memory or take a larger device")
        return
    num_pages = settings.num_pages or pages_that_fit(left, each, is_gpu=accelerator.is_gpu)
    if num_pages * each > left:
        says = (
            f"{num_pages:,} pages take {gigabytes(num_pages * each)}, and {gigabytes(left)} are left beside the weights: too little memory"
        )
        yield fault("memory", says, f"--num-pages {left // each // 2} or less, or leave it out")
        return
    yield fine(
        "memory", f"weights {gigabytes(weights)} + {num_pages:,} pages {gigabytes(num_pages * each)} of {gigabytes(accelerator.free_bytes)}"
    )
    yield _plan(checkpoint.model, num_pages, settings)


def _plan(model: ServedModel, num_pages: int, settings: Settings) -> Finding:
    room = PictureRoom.of_model(model.config, model.profile)
    at_once = room.how_many(num_pages, settings.page_size, settings.max_running)
    context = min(model.config.llm.max_positions, num_pages * settings.page_size)
    says = f"context up to {context:,} rows, {at_once} pictures of {room.size} at once"
    if at_once == 0:
        return fault("plan", f"{says}: not one picture fits into {num_pages} pages", "more --num-pages")
    return fine("plan", says)
