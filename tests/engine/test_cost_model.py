"""The cost model learns what steps cost, forgets what no longer holds, and is not misled."""

from __future__ import annotations

import random

from server.engine.cost_model import CostModel, Load

TRUTH = Load(4e-3, 1e-3, 5e-3, 6e-5, 8e-5, 2e-9, 1e-5, 3e-8, 5e-8)


def random_load(rng: random.Random) -> Load:
    """A step of mixed traffic: decode rows, in half of the steps pictures or prompt chunks beside them."""
    num_decodes = rng.randint(0, 16)
    load = Load(und_tokens=num_decodes, rows=num_decodes, pairs=num_decodes * 200)
    if rng.random() < 0.4:
        num_rows, num_tokens = rng.randint(1, 4), rng.choice([64, 256, 1024])
        picture = Load(1, 1, 1, 2 * num_rows, num_rows * num_tokens, num_rows * num_tokens * (num_tokens + 100), num_rows)
        load = load.joined(picture)
    if rng.random() < 0.2:
        num_tokens = rng.randint(1, 500)
        load = load.joined(Load(1, 1, 0, num_tokens, 0, num_tokens**2 / 2, 1))
    if rng.random() < 0.1:
        load = load.joined(Load(1, 1, 1, 4, 256, 256 * 300, 1, 256 * 256, 0))
    if rng.random() < 0.05:
        load = load.joined(Load(1, 1, 1, 4, 256, 256 * 300, 1, 0, 256 * 256))
    return load


def true_seconds(load: Load, rng: random.Random, noise: float = 0.05) -> float:
    return sum(a * b for a, b in zip(TRUTH, load, strict=True)) * rng.uniform(1 - noise, 1 + noise)


def taught(num_steps: int, rng: random.Random) -> CostModel:
    model = CostModel()
    for _ in range(num_steps):
        load = random_load(rng)
        model.observe(load, true_seconds(load, rng))
    return model


def median_error(model: CostModel, rng: random.Random, speed: float = 1.0) -> float:
    loads = [random_load(rng) for _ in range(300)]
    errors = sorted(abs(model.predict(load) / (true_seconds(load, rng, 0.0) * speed) - 1) for load in loads)
    return errors[len(errors) // 2]


def test_two_hundred_noisy_steps_teach_it_to_within_a_few_percent() -> None:
    rng = random.Random(1)

    assert median_error(taught(200, rng), rng) < 0.05


def test_hiccups_teach_it_nothing() -> None:
    """One step in ten takes ten times as long."""
    rng = random.Random(2)
    model = taught(60, rng)
    for _ in range(300):
        load = random_load(rng)
        model.observe(load, true_seconds(load, rng) * (10.0 if rng.random() < 0.1 else 1.0))

    assert median_error(model, rng) < 0.08


def test_a_machine_that_becomes_half_as_fast_is_followed() -> None:
    rng = random.Random(3)
    model = taught(300, rng)
    for _ in range(400):
        load = random_load(rng)
        model.observe(load, 2.0 * true_seconds(load, rng))

    assert median_error(model, rng, speed=2.0) < 0.08


def test_long_stretches_of_decoding_do_not_wipe_out_what_pictures_cost() -> None:
    rng = random.Random(4)
    model = taught(300, rng)
    for _ in range(20_000):
        load = Load(und_tokens=4, rows=4, pairs=800)
        model.observe(load, true_seconds(load, rng))
    picture = Load(1, 1, 1, 2, 1024, 1024 * 1200, 1)

    assert abs(model.predict(picture) / true_seconds(picture, rng, 0.0) - 1) < 0.15


def test_long_stretches_of_pictures_do_not_wipe_out_what_decode_steps_cost() -> None:
    """Beside pictures decode steps take longer, and teach nothing of those alone."""
    rng = random.Random(4)
    model = taught(300, rng)
    for _ in range(20_000):
        num_tokens = rng.choice([256, 512, 1024])
        load = Load(1, 1, 1, 2, num_tokens, num_tokens * 1200, 1)
        model.observe(load, true_seconds(load, rng))
    decodes = Load(und_tokens=4, rows=4, pairs=800)

    assert abs(model.predict(decodes) / true_seconds(decodes, rng, 0.0) - 1) < 0.15


def test_more_work_never_takes_less_time() -> None:
    rng = random.Random(5)
    model = CostModel()
    for _ in range(200):
        model.observe(random_load(rng), rng.uniform(1e-4, 1.0))

    load = random_load(rng)
    for term, amount in load._asdict().items():
        assert model.predict(load._replace(**{term: amount + 1})) >= model.predict(load), term


def test_its_error_is_that_of_its_predictions() -> None:
    rng = random.Random(6)

    assert taught(5, rng).error == 0.0
    assert 0.005 < taught(400, rng).error < 0.08
