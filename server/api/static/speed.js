/** How fast an answer comes: a rate over the last few seconds while it runs, totals when it is done. */

const WINDOW_MS = 3000;

export class Speed {
  #samples = [];

  /** Note how many tokens and steps there are now. */
  note(now, tokens, steps) {
    this.#samples.push({ now, tokens, steps });
    while (this.#samples.length > 2 && now - this.#samples[0].now > WINDOW_MS) this.#samples.shift();
  }

  /** @returns {string} such as "21 tokens/s · 7.9 steps/s"; only what moves is named */
  live() {
    const first = this.#samples[0];
    const last = this.#samples.at(-1);
    if (!first || last.now - first.now < 150) return "";
    const seconds = (last.now - first.now) / 1000;
    return [rate(last.tokens - first.tokens, seconds, "tokens/s"), rate(last.steps - first.steps, seconds, "steps/s")].filter(Boolean).join(" · ");
  }
}

function rate(amount, seconds, unit) {
  if (amount <= 0) return "";
  const value = amount / seconds;
  return `${value >= 10 ? Math.round(value) : value.toFixed(1)} ${unit}`;
}

/** Sum up a finished answer, such as "42 tokens · 3 pictures · 6.1 s". */
export function summary(answer) {
  const pictures = answer.parts.filter((part) => part?.kind === "picture").length;
  const tokens = answer.usage?.completion_tokens_details?.text_tokens ?? answer.chunks;
  const seconds = answer.endedAt > answer.startedAt ? `${((answer.endedAt - answer.startedAt) / 1000).toFixed(1)} s` : "";
  return [counted(tokens, "token"), counted(pictures, "picture"), seconds].filter(Boolean).join(" · ");
}

function counted(number, noun) {
  return number ? `${number} ${noun}${number === 1 ? "" : "s"}` : "";
}
