"""After which denoise steps a preview is shown: spread evenly, none after the last, whose picture comes whole."""

from __future__ import annotations


def preview_steps(num_steps: int, num_previews: int) -> list[int]:
    """Return the step, counted from 1, after which each preview is shown.

    Preview k of n stands at the fraction (k + 1) / (n + 1) of the way. Where there are fewer steps than previews, each step but the
    last has one.
    """
    shown = min(num_previews, num_steps - 1)
    return [(preview + 1) * num_steps // (shown + 1) for preview in range(shown)]


def preview_after(step: int, num_steps: int, num_previews: int) -> int | None:
    """Return which preview, counted from 0, follows ``step``; None for none."""
    steps = preview_steps(num_steps, num_previews)
    return steps.index(step) if step in steps else None
