/** The public API, and nothing else of the server: models, one streamed answer, its resumption, its cancellation. */

import { eventsOf } from "/static/sse.js";

/** Tells the server to go on while nobody reads: a reload comes back. */
const RESUMABLE = { "x-plait-resumable": "true" };
const NO_KEY = "This server needs an API key.";
const UNKNOWN_KEY = "The server does not know this API key.";
const TOO_LONG = ["context_length_exceeded", "body_too_large"];
const ENDED_EARLY = "The connection ended before the answer did.";
const RECONNECT_MS = [300, 800, 2000, 4000, 8000];

/** An answer of the server that is an error; `status` is 0 when there was no answer. */
export class ApiError extends Error {
  constructor(message, status, code, param, isGone = false) {
    super(message);
    Object.assign(this, { status, code, param, isGone });
  }

  /** Whether less of the conversation would have been taken. */
  get isTooLong() {
    return TOO_LONG.includes(this.code);
  }
}

export class Api {
  /** @param {() => string} readKey returns the API key, or "" */
  constructor(readKey) {
    this.readKey = readKey;
  }

  async models() {
    return (await (await this.#fetch("/v1/models")).json()).data;
  }

  async isReady() {
    try {
      return (await fetch("/readyz")).ok;
    } catch {
      return false;
    }
  }

  /**
   * Ask; `onStream(id)` is told the stream's id as soon as it is known, `onChunk(chunk)` every chunk, in order, once.
   * `onBreak()` is told each time the line is found broken, `onMend()` that it is whole again.
   */
  async ask(body, { signal, onStream, ...hooks }) {
    const response = await this.#fetch("/v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal, headers: RESUMABLE });
    const streamId = response.headers.get("x-stream-id");
    if (streamId) onStream(streamId);
    await this.#follow(response, streamId, 0, { signal, ...hooks });
  }

  /** Read a stream again, from event `after` on. */
  async resume(streamId, after, hooks) {
    await this.#follow(await this.#reopen(streamId, after, hooks.signal), streamId, after, hooks);
  }

  /** End a stream for good. A stream that is over, or a server that keeps none, is no error. */
  async cancel(streamId) {
    await fetch(`/v1/streams/${encodeURIComponent(streamId)}`, { method: "DELETE", headers: this.#headers() }).catch(() => {});
  }

  /** Read a response to its end; when the line breaks, open the stream again where it broke. */
  async #follow(response, streamId, after, { signal, onChunk, onBreak, onMend }) {
    let last = after;
    for (let failures = 0; ; ) {
      try {
        for await (const event of eventsOf(response.body)) {
          failures = 0;
          const number = Number(event.id);
          if (number && number <= last) continue;
          last = number || last;
          if (event.data === "[DONE]") return;
          const chunk = JSON.parse(event.data);
          if (chunk.error) throw new ApiError(chunk.error.message, 500, chunk.error.code, chunk.error.param);
          onChunk(chunk);
        }
        throw new ApiError(ENDED_EARLY, 0);
      } catch (error) {
        const isBroken = error instanceof TypeError || error.status === 0;
        if (signal.aborted || !isBroken) throw error;
        if (!streamId || failures >= RECONNECT_MS.length) throw new ApiError(ENDED_EARLY, 0);
        onBreak();
        await pause(RECONNECT_MS[failures++], signal);
        try {
          response = await this.#reopen(streamId, last, signal);
          onMend();
        } catch (refused) {
          if (refused.status !== 0) throw refused;
          response = new Response(new Blob([]));
        }
      }
    }
  }

  async #reopen(streamId, after, signal) {
    try {
      return await this.#fetch(`/v1/streams/${encodeURIComponent(streamId)}?starting_after=${after}`, { signal });
    } catch (error) {
      if (error.status === 404 || error.status === 410) {
        throw new ApiError("The server no longer has this answer.", error.status, error.code, null, true);
      }
      throw error;
    }
  }

  #headers() {
    const key = this.readKey();
    return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  }

  async #fetch(path, options = {}) {
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...this.#headers(), ...options.headers } });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new ApiError("The server does not answer.", 0);
    }
    if (response.ok) return response;
    if (response.status === 401) throw new ApiError(this.readKey() ? UNKNOWN_KEY : NO_KEY, 401);
    const told = await response.json().catch(() => null);
    const error = told?.error ?? { message: `The server answered with status ${response.status}.` };
    throw new ApiError(error.message, response.status, error.code, error.param);
  }
}

/** Wait, but no longer than until `signal` says to stop. */
function pause(durationMs, signal) {
  return new Promise((resolve) => {
    setTimeout(resolve, durationMs);
    signal.addEventListener("abort", resolve, { once: true });
  });
}
