/** What an answer holds, and how each chunk of the stream changes it. No DOM here. */

/** @returns {Answer} an answer nothing has arrived of */
export function emptyAnswer() {
  return { parts: [], thought: "", drawing: null, usage: null, finish: null, error: null, isTooLong: false, chunks: 0, steps: 0, startedAt: 0, firstAt: 0, endedAt: 0 };
}

/**
 * Take in one chunk; the answer is changed in place. `now` in milliseconds.
 * `parts` are {kind: "text", text} and {kind: "picture", url}, in order; `drawing` is the picture being drawn.
 */
export function take(answer, chunk, now) {
  if (chunk.image_progress) takeProgress(answer, chunk.image_progress, now);
  if (chunk.usage) answer.usage = chunk.usage;
  for (const choice of chunk.choices ?? []) {
    if (choice.index !== 0) continue;
    takeDelta(answer, choice.delta ?? {}, now);
    answer.finish = choice.finish_reason ?? answer.finish;
  }
}

function takeDelta(answer, delta, now) {
  if (delta.reasoning_content) {
    answer.thought += delta.reasoning_content;
    count(answer, now);
  }
  const pictures = new Map((delta.images ?? []).map((image) => [image.index, image.image_url.url]));
  for (const part of delta.content_parts ?? []) {
    if (part.type === "text") {
      if (!part.text) continue;
      const written = answer.parts[part.index] ?? { kind: "text", text: "" };
      written.text += part.text;
      answer.parts[part.index] = written;
      count(answer, now);
    } else {
      answer.parts[part.index] = { kind: "picture", url: pictures.get(part.image_index) };
      answer.drawing = null;
      answer.firstAt ||= now;
    }
  }
}

function takeProgress(answer, progress, now) {
  if (progress.choice) return;
  if (answer.drawing?.index !== progress.index) answer.drawing = { index: progress.index, step: 0, preview: null, startedAt: now };
  const drawing = answer.drawing;
  answer.steps += Math.max(0, progress.step - drawing.step);
  drawing.step = Math.max(drawing.step, progress.step);
  drawing.numSteps = progress.num_steps;
  if (progress.partial_image_b64) drawing.preview = `data:image/webp;base64,${progress.partial_image_b64}`;
}

function count(answer, now) {
  answer.firstAt ||= now;
  answer.chunks += 1;
}

/** Return the answer as an assistant message of the next request. */
export function asMessage(answer) {
  const parts = answer.parts.filter(Boolean);
  const images = [];
  const contentParts = parts.map((part) => {
    if (part.kind === "text") return { type: "text", text: part.text };
    images.push({ index: images.length, type: "image_url", image_url: { url: part.url } });
    return { type: "image_url", image_index: images.length - 1 };
  });
  const content = parts.map((part) => part.text ?? "").join("");
  return { role: "assistant", content, images, content_parts: contentParts };
}

/** Say in words what an answer holds, for those who hear it. */
export function spoken(answer) {
  const parts = answer.parts.filter(Boolean);
  return parts.map((part) => (part.kind === "text" ? part.text.trim() : "(picture)")).join(" ");
}
