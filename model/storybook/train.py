"""Train storybook, stage by stage: ``python -m model.storybook.train --stage tokenizer|vae|transformer|export --out DIR``.

To train a finished model further: ``--stage transformer --out NEW_DIR --from MODEL_DIR``, with a fresh optimiser.

The same command runs on a CPU and on a GPU, and goes on from the last checkpoint in DIR if it was stopped. See `model.storybook.run`
for the files of a stage; ``--stage export`` writes the finished model directory DIR/model from what the other stages left.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.bagel import Bagel
from model.profile import FamilyProfile
from model.storybook.architecture import ModelSize, initialise, storybook_config, write_profile
from model.storybook.card import StageRecord, write_card
from model.storybook.previews import ship_preview
from model.storybook.run import Run
from model.storybook.tokenizer_training import train_tokenizer
from model.storybook.transformer_training import TransformerSettings, TransformerTraining
from model.storybook.vae_training import VaeSettings, latent_statistics, train_vae, vae_config
from model.tokenizer import Tokenizer
from model.vae import Vae
from model.weights import load_bagel, save_bagel


class Stage(Enum):
    TOKENIZER = "tokenizer"
    VAE = "vae"
    TRANSFORMER = "transformer"
    EXPORT = "export"


START = "start.safetensors"
"""Weights that the transformer starts from, if it does not start afresh."""
STATISTICS_SCENES = 512
"""Scenes whose latents fix the VAE's shift and scale."""


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    directory = Path(options.out)
    stage = Stage(options.stage)
    match stage:
        case Stage.TOKENIZER:
            print(f"vocabulary of {train_tokenizer(directory / 'tokenizer', options.seed)} tokens")
        case Stage.VAE:
            make_vae(directory, replace(VaeSettings(), seed=options.seed), options.steps)
        case Stage.TRANSFORMER:
            settings = TransformerSettings(seed=options.seed)
            settings = replace(settings, num_steps=options.steps or settings.num_steps, num_decay=options.decay or settings.num_decay)
            if options.rate:
                settings = replace(settings, optimiser=replace(settings.optimiser, learning_rate=options.rate))
            if options.start:
                unpack_model(Path(options.start), directory)
            make_transformer(directory, settings, ModelSize())
        case Stage.EXPORT:
            export(directory, ModelSize(), Path(options.scores) if options.scores else None)


def make_vae(directory: Path, settings: VaeSettings, num_steps: int | None = None) -> None:
    """Train the VAE and write ``vae/vae.safetensors`` with the shift and scale of its latents."""
    settings = replace(settings, num_steps=num_steps or settings.num_steps)
    device = _device()
    vae = Vae(vae_config())
    train_vae(vae, Run(directory / "vae", settings.num_steps, _command(directory)), settings, device)
    mean, deviation = latent_statistics(vae, settings.seed, STATISTICS_SCENES, device)
    weights = {name: values.detach().cpu().contiguous() for name, values in vae.state_dict().items()}
    save_file(weights, directory / "vae" / "vae.safetensors", {"shift": repr(mean), "scale": repr(1.0 / deviation)})


def make_transformer(directory: Path, settings: TransformerSettings, size: ModelSize) -> None:
    """Train the transformer on the finished tokenizer and VAE, and export the model."""
    model, tokenizer = fresh_model(directory, size, settings.seed)
    if (directory / START).exists():
        _fill(model, load_file(directory / START))
        settings = replace(settings, num_easy=0)
    model.to(_device())
    TransformerTraining(model, tokenizer, settings).run(Run(directory / "transformer", settings.num_steps, _command(directory)))
    _write_model(model, directory, None)


def export(directory: Path, size: ModelSize, scores: Path | None = None) -> None:
    """Write ``model/`` from the transformer's last checkpoint: the running average of the weights, and the model card."""
    model, _ = fresh_model(directory, size, seed=0)
    saved = load_file(directory / "transformer" / "checkpoint.safetensors")
    _fill(model, {name.removeprefix("average."): values for name, values in saved.items() if name.startswith("average.")})
    _write_model(model, directory, scores)


def unpack_model(source: Path, directory: Path) -> None:
    """Lay a finished model out as the stages would have left it: tokenizer, VAE, and the weights to start the transformer from."""
    model = load_bagel(source)
    vae = {name.removeprefix("vae."): values for name, values in model.state_dict().items() if name.startswith("vae.")}
    others = {name: values for name, values in model.state_dict().items() if not name.startswith("vae.")}
    for name in ("tokenizer", "vae", "transformer"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    for path in source.glob("*token*.json"):
        shutil.copy(path, directory / "tokenizer")
    statistics = {"shift": repr(model.config.vae.shift_factor), "scale": repr(model.config.vae.scale_factor)}
    save_file(vae, directory / "vae" / "vae.safetensors", statistics)
    save_file(others, directory / START)


@torch.no_grad()
def _fill(model: Bagel, weights: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, values in weights.items():
        parameters[name].copy_(values)


def fresh_model(directory: Path, size: ModelSize, seed: int) -> tuple[Bagel, Tokenizer]:
    """Build the model around the trained VAE, everything else untrained, and its tokenizer."""
    path = directory / "vae" / "vae.safetensors"
    with safe_open(path, framework="pt") as stored:
        statistics = stored.metadata()
    write_profile(directory / "tokenizer")
    vae = vae_config(float(statistics["shift"]), float(statistics["scale"]))
    profile = FamilyProfile.from_directory(directory / "tokenizer", storybook_config(0, vae, size))
    tokenizer = Tokenizer.from_directory(directory / "tokenizer", profile)
    model = Bagel(storybook_config(tokenizer.vocab_size, vae, size))
    initialise(model, seed)
    model.vae.load_state_dict(load_file(path))
    return model, tokenizer


def _write_model(model: Bagel, directory: Path, scores: Path | None) -> None:
    """Write the model directory: the VAE in float16, the rest in bfloat16, tokenizer, profile, card and plots."""
    vae = {name: values.detach().half() for name, values in model.vae.named_parameters()}
    half = model.to("cpu", torch.bfloat16)
    half.vae.half().load_state_dict(vae)
    save_bagel(half, directory / "model")
    ship_preview(directory / "model")
    shutil.copytree(directory / "tokenizer", directory / "model", dirs_exist_ok=True)
    stages = [stage for stage in ("vae", "transformer") if (directory / stage / "log.jsonl").exists()]
    for stage in stages:
        shutil.copy(directory / stage / "plot.svg", directory / "model" / f"plot-{stage}.svg")
    write_card(directory / "model", [StageRecord.read(directory / stage) for stage in stages], scores)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _command(directory: Path) -> str:
    """Name the command for the record, without the place of the directory."""
    given = ["DIR" if word == str(directory) else word for word in sys.argv[1:]]
    return f"python -m model.storybook.train {shlex.join(given)}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=[stage.value for stage in Stage], required=True)
    parser.add_argument("--out", required=True, help="directory of the whole training")
    parser.add_argument("--steps", type=int, help="steps of the stage in all, instead of its default")
    parser.add_argument(
        "--decay", type=int, help="transformer: last steps, over which the learning rate falls to 0, instead of the default"
    )
    parser.add_argument("--rate", type=float, help="transformer: the learning rate; a finished model forgets less at a lower one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="start", help="transformer: model directory to start from")
    parser.add_argument("--scores", help="export: JSON file of loadtests.storybook.evaluate for the model card")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    return parser.parse_args()


if __name__ == "__main__":
    main()
