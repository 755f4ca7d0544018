"""The model directory: is everything there and whole, and does it fit into the memory of the device?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.errors import CheckpointError
from model.sizes import WeightCounts
from model.tokenizer import Tokenizer
from server.cli.doctor.finding import Finding, fault, fine, warning
from server.cli.doctor.machine import Accelerator, chosen_dtype
from server.engine.memory_plan import (
    PictureRoom,
    TooManyPages,
    gigabytes,
    graph_bytes,
    page_bytes,
    pages_on_cpu,
    pages_on_gpu,
    working_bytes,
)
from server.engine.options import LEAST_FP8_CAPABILITY
from server.serving.served_model import ServedModel
from server.settings import Settings

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}
FP8_BYTES = 1
PROBE_TEXT = "A red balloon, 3 kites & a café 🎈"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model directory that can be read."""

    model: ServedModel
    tokenizer: Tokenizer
    weights: WeightCounts


def read_checkpoint(path: Path, family: str | None) -> Checkpoint:
    """Read all of a directory but the weights themselves, and see that they are those of its configuration.

    Raises:
        CheckpointError: names the file, the tensor and what was expected.
    """
    from model.weight_table import count_weights
    from model.weights import check_weights

    model = ServedModel.from_directory(path, path.name, family)
    check_weights(path)
    return Checkpoint(model, model.tokenizer, count_weights(model.config))


def check_checkpoint(path: Path, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Say what a directory that could be read holds."""
    family = checkpoint.model.profile.family.value
    yield fine(
        "model", f"{path.name}: {checkpoint.weights.total / 1e6:,.1f} million parameters of the {family} family, every tensor in its place"
    )
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
    config = checkpoint.model.config
    element_bytes = ELEMENT_BYTES[chosen_dtype(settings.dtype, accelerator)]
    weights = checkpoint.weights.num_bytes(element_bytes, has_fp8_experts=settings.quantization == "fp8")
    each = page_bytes(config.llm, settings.page_size, FP8_BYTES if settings.kv_dtype == "fp8" else element_bytes)
    working = 0
    if accelerator.is_gpu:
        working = working_bytes(config, settings.max_batch_tokens, element_bytes) + graph_bytes(config.llm, element_bytes)
    left = accelerator.free_bytes - weights
    if left <= working:
        needs = f"the weights take {gigabytes(weights)}" + (f" and its steps {gigabytes(working)}" if working else "")
        says = f"{needs}, and {gigabytes(accelerator.free_bytes)} are free: too little memory"
        yield fault("memory", says, f"{_smaller(accelerator, settings, element_bytes)}free memory or take a larger device")
        return
    num_pages = settings.num_pages or (pages_on_gpu(left, each, working) if accelerator.is_gpu else pages_on_cpu(left, each))
    if num_pages * each > left:
        refused = TooManyPages(num_pages, each, left)
        yield fault("memory", refused.says, refused.remedy)
        return
    pages = f"{num_pages:,} pages {'of fp8 ' if settings.kv_dtype == 'fp8' else ''}{gigabytes(num_pages * each)}"
    yield fine("memory", f"weights {gigabytes(weights)} + {pages} of {gigabytes(accelerator.free_bytes)}")
    yield _plan(checkpoint.model, num_pages, settings)


def _smaller(accelerator: Accelerator, settings: Settings, element_bytes: int) -> str:
    """Name the option that makes the weights smaller on this device, if there is one."""
    if element_bytes > ELEMENT_BYTES["bfloat16"]:
        return "--dtype bfloat16 halves the weights; else "
    if settings.quantization == "none" and (accelerator.capability or (0, 0)) >= LEAST_FP8_CAPABILITY:
        return "--quantization fp8 halves the experts, less exactly; else "
    return ""


def _plan(model: ServedModel, num_pages: int, settings: Settings) -> Finding:
    room = PictureRoom.of_model(model.config, model.profile)
    at_once = room.how_many(num_pages, settings.page_size, settings.max_running)
    context = min(model.config.llm.max_positions, num_pages * settings.page_size)
    says = f"context up to {context:,} rows, {at_once} pictures of {room.size} at once"
    if at_once == 0:
        return fault("plan", f"{says}: not one picture fits into {num_pages} pages", "more --num-pages; --kv-dtype fp8 doubles them")
    return fine("plan", says)
