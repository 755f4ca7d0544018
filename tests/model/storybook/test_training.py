"""Every stage of the training, a few steps each with a tiny setting: the loss falls, a stopped run goes on, the result loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import save_file

from model.bagel import Bagel
from model.profile import FamilyProfile
from model.storybook.architecture import ModelSize
from model.storybook.bank import Bank
from model.storybook.episodes import Episode, Task, make_episode
from model.storybook.losses import Noised, hidden_states
from model.storybook.optimiser import OptimiserConfig, orthogonalise
from model.storybook.packing import Batch, Packer
from model.storybook.run import Run
from model.storybook.tokenizer_training import train_tokenizer
from model.storybook.train import fresh_model, make_transformer, unpack_model
from model.storybook.transformer_training import SQUARE, TransformerSettings, TransformerTraining
from model.storybook.vae_training import VaeSettings, train_vae, vae_config
from model.tokenizer import Tokenizer
from model.vae import Vae
from model.weights import load_bagel

TINY = ModelSize(32, 64, 2, 2, 1, 32, 64, 1, 2)
SETTINGS = TransformerSettings(num_steps=8, num_decay=4, num_easy=1, batch_size=4, num_copies=2, num_warm=4, report_every=4, num_probes=1)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training directory whose tokenizer is made and whose VAE is untrained."""
    path = tmp_path_factory.mktemp("storybook")
    train_tokenizer(path / "tokenizer", num_rounds=40)
    (path / "vae").mkdir()
    torch.manual_seed(0)
    save_file(Vae(vae_config()).state_dict(), path / "vae" / "vae.safetensors", {"shift": "0.0", "scale": "3.0"})
    return path


@pytest.fixture(scope="module")
def model_and_tokenizer(directory: Path) -> tuple[Bagel, Tokenizer]:
    model, tokenizer = fresh_model(directory, TINY, seed=0)
    for parameter in model.parameters():
        if parameter.ndim == 2 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model, tokenizer


def episode(task: Task, seed: int = 0) -> Episode:
    return make_episode(task, Random(seed), wide=False)


def log_of(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.directory / "log.jsonl").read_text().splitlines()]


def test_the_vae_learns(tmp_path: Path) -> None:
    run = Run(tmp_path / "vae", 60, "test")
    settings = VaeSettings(num_steps=60, batch_size=4, report_every=20, num_probes=1)

    train_vae(Vae(vae_config()), run, settings, torch.device("cpu"))

    losses = [line["loss"] for line in log_of(run)]
    assert losses[-1] < losses[0]
    assert (run.directory / "plot.svg").read_text().startswith("<svg")


def test_the_transformer_learns(directory: Path, tmp_path: Path) -> None:
    model, tokenizer = fresh_model(directory, TINY, seed=0)
    run = Run(tmp_path / "transformer", 20, "test")
    settings = replace(SETTINGS, num_steps=20, report_every=10, optimiser=OptimiserConfig(learning_rate=2e-2))

    TransformerTraining(model, tokenizer, settings).run(run)

    lines = log_of(run)
    assert lines[-1]["flow_story"] < 0.98 * lines[0]["flow_story"]
    assert lines[-1]["words_edit"] < 0.5 * lines[0]["words_edit"]


def test_a_stopped_run_ends_with_the_same_weights(directory: Path, tmp_path: Path) -> None:
    def trained(path: Path, first_stop: int) -> dict[str, torch.Tensor]:
        for stop in (first_stop, 8):
            model, tokenizer = fresh_model(directory, TINY, seed=0)
            training = TransformerTraining(model, tokenizer, replace(SETTINGS, report_every=first_stop))
            run = Run(path, 8, "test")
            run.load(training.optimiser)
            while training.optimiser.num_steps < stop:
                training.step()
            run.save(training.optimiser)
        return training.optimiser.averaged()

    whole, halves = trained(tmp_path / "whole", 8), trained(tmp_path / "halves", 4)

    assert all(torch.allclose(whole[name], halves[name], atol=1e-6) for name in whole)


def test_the_exported_model_loads(directory: Path) -> None:
    make_transformer(directory, replace(SETTINGS, num_steps=2, report_every=2), TINY)

    model = load_bagel(directory / "model")
    profile = FamilyProfile.from_directory(directory / "model", model.config)
    tokenizer = Tokenizer.from_directory(directory / "model", profile)

    card = (directory / "model" / "README.md").read_text()

    assert model.config.latent_stride == 32
    assert "2 steps" in card and "orange circle" in card
    assert tokenizer.decode(tokenizer.encode("a small red star — 日本")) == "a small red star — 日本"
    assert profile.defaults.image_size == (64, 64)


def test_a_finished_model_trains_further(directory: Path, tmp_path: Path) -> None:
    make_transformer(directory, replace(SETTINGS, num_steps=2, report_every=2), TINY)

    unpack_model(directory / "model", tmp_path)
    make_transformer(tmp_path, replace(SETTINGS, num_steps=1, report_every=1, seed=1), TINY)

    before, after = (load_bagel(path / "model").token_embedding for path in (directory, tmp_path))
    assert not torch.equal(before, after)
    assert torch.allclose(before, after, atol=0.05)


def states(model: Bagel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of each episode, by expert, with the same noise for every token that has the same content."""
    bank = Bank(model.vae, 4, torch.device("cpu"))
    latents = bank.latents(batch.scenes)[batch.latent_scene, batch.latent_index]
    noised = Noised(latents, (batch.copy >= 0).float() * 0.5, latents)
    hidden = hidden_states(model, bank, batch, SQUARE, noised)
    split = batch.num_episodes * batch.num_und
    return hidden[:split].view(batch.num_episodes, batch.num_und, -1), hidden[split:].view(batch.num_episodes, batch.num_gen, -1)


@torch.no_grad()
def test_a_panel_sees_nothing_of_the_panels_after_it(model_and_tokenizer: tuple[Bagel, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = model_and_tokenizer
    monkeypatch.setattr("model.storybook.losses.PIXEL_NOISE", 0.0)
    story = episode(Task.STORY)
    packer = Packer(tokenizer, SQUARE, num_copies=2, drop_last_text=0.0, drop_everything=0.0)

    und, gen = states(model, packer.pack([story], Random(0)))
    first_und, first_gen = states(model, packer.pack([story[:3]], Random(0)))

    assert torch.allclose(und[0, : first_und.shape[1]], first_und[0], atol=1e-5)
    assert torch.allclose(gen[0, : first_gen.shape[1]], first_gen[0], atol=1e-5)


@torch.no_grad()
def test_noisy_copies_are_seen_by_nobody_else(model_and_tokenizer: tuple[Bagel, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = model_and_tokenizer
    monkeypatch.setattr("model.storybook.losses.PIXEL_NOISE", 0.0)
    chat = episode(Task.CHAT)
    one, three = (Packer(tokenizer, SQUARE, n, drop_last_text=0.0, drop_everything=0.0) for n in (1, 3))

    und, gen = states(model, one.pack([chat], Random(0)))
    und_three, gen_three = states(model, three.pack([chat], Random(0)))

    assert torch.allclose(gen[0, -4:], gen_three[0, -4:], atol=1e-5)
    assert torch.allclose(gen[0, :4], gen_three[0, :4], atol=1e-5)
    assert torch.allclose(und[0, -20:], und_three[0, -20:], atol=1e-5)


@torch.no_grad()
def test_a_copy_blind_to_everything_is_an_unconditional_picture(model_and_tokenizer: tuple[Bagel, Tokenizer]) -> None:
    model, tokenizer = model_and_tokenizer
    told = episode(Task.DRAW)
    blind = Packer(tokenizer, SQUARE, 1, drop_last_text=0.0, drop_everything=1.0)
    seeing = Packer(tokenizer, SQUARE, 1, drop_last_text=0.0, drop_everything=0.0)

    _, dropped = states(model, blind.pack([told], Random(0)))
    _, alone = states(model, seeing.pack([told[1:]], Random(0)))
    _, with_words = states(model, seeing.pack([told], Random(0)))

    assert torch.allclose(dropped, alone, atol=1e-5)
    assert not torch.allclose(dropped, with_words, atol=1e-3)


@torch.no_grad()
def test_padding_changes_nothing(model_and_tokenizer: tuple[Bagel, Tokenizer]) -> None:
    model, tokenizer = model_and_tokenizer
    short, long = episode(Task.DRAW), episode(Task.THINK)
    packer = Packer(tokenizer, SQUARE, 1, drop_last_text=0.0, drop_everything=0.0)

    und, gen = states(model, packer.pack([short], Random(0)))
    und_padded, gen_padded = states(model, packer.pack([short, long], Random(0)))

    assert torch.allclose(und[0], und_padded[0, : und.shape[1]], atol=1e-5)
    assert torch.allclose(gen[0], gen_padded[0, : gen.shape[1]], atol=1e-5)


def test_labels_choose_the_next_segment(model_and_tokenizer: tuple[Bagel, Tokenizer]) -> None:
    _, tokenizer = model_and_tokenizer
    batch = Packer(tokenizer, SQUARE, 1).pack([episode(Task.STORY)], Random(0))
    fed = batch.ids[batch.label_rows]

    chosen = batch.labels[(fed == tokenizer.eos_id) | (fed == tokenizer.eoi_id)].tolist()

    num_panels = len(chosen) // 2
    assert chosen == [tokenizer.boi_id, tokenizer.bos_id] * (num_panels - 1) + [tokenizer.boi_id, tokenizer.end_ids[0]]


@pytest.mark.parametrize("shape", [(2, 24, 40), (1, 40, 24)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))

    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.5
