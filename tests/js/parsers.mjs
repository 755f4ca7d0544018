// Reads one recorded event stream, cut into chunks in several ways, with five parsers; prints what each saw as one line of JSON.
// Usage: node parsers.mjs FILE, which holds a list of cuts, each a list of chunks in base64
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createSseStream } from "@azure/core-sse";
import { EventSource } from "eventsource";
import { createParser } from "eventsource-parser";
import { EventSourceParserStream } from "eventsource-parser/stream";
import { Stream } from "openai/streaming";

/** @typedef {[string, string]} Seen the id and the data of an event */
/** @typedef {Uint8Array<ArrayBuffer>[]} Chunks */
const HEADERS = { "content-type": "text/event-stream; charset=utf-8" };

const [file] = process.argv.slice(2);
assert(file);
/** @type {string[][]} */
const encoded = JSON.parse(await readFile(file, "utf8"));
const cuts = encoded.map((chunks) => chunks.map((chunk) => Uint8Array.from(Buffer.from(chunk, "base64"))));

/** @param {Chunks} chunks @returns {ReadableStream<Uint8Array<ArrayBuffer>>} */
function streamOf(chunks) {
  return new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });
}

/** @param {Chunks} chunks */
function withParser(chunks) {
  /** @type {Seen[]} */
  const seen = [];
  const parser = createParser({ onEvent: (event) => seen.push([event.id ?? "", event.data]) });
  const decoder = new TextDecoder();
  for (const chunk of chunks) parser.feed(decoder.decode(chunk, { stream: true }));
  return seen;
}

/** @param {Chunks} chunks */
async function withParserStream(chunks) {
  /** @type {Seen[]} */
  const seen = [];
  /** @type {ReadableStream<string>} */
  const text = streamOf(chunks).pipeThrough(/** @type {any} */ (new TextDecoderStream()));
  for await (const event of text.pipeThrough(new EventSourceParserStream())) seen.push([event.id ?? "", event.data]);
  return seen;
}

/** @param {Chunks} chunks */
async function withAzure(chunks) {
  /** @type {Seen[]} */
  const seen = [];
  for await (const event of createSseStream(streamOf(chunks))) seen.push([event.id, event.data]);
  return seen;
}

/** @param {Chunks} chunks @returns {Promise<Seen[]>} */
function withEventSource(chunks) {
  return new Promise((resolve) => {
    /** @type {Seen[]} */
    const seen = [];
    const source = new EventSource("http://plait/", {
      fetch: async () => /** @type {any} */ (new Response(streamOf(chunks), { headers: HEADERS })),
    });
    source.addEventListener("message", (event) => seen.push([event.lastEventId, event.data]));
    // The stream is over: the browser's way is to come back, which this recording cannot answer.
    source.addEventListener("error", () => {
      source.close();
      resolve(seen);
    });
  });
}

/** The official client shows neither ids nor the last event.  @param {Chunks} chunks */
async function withOpenAI(chunks) {
  /** @type {string[]} */
  const seen = [];
  const response = /** @type {any} */ (new Response(streamOf(chunks), { headers: HEADERS }));
  for await (const chunk of Stream.fromSSEResponse(response, new AbortController())) seen.push(JSON.stringify(chunk));
  return seen;
}

const parsers = { withParser, withParserStream, withAzure, withEventSource, withOpenAI };
/** @type {Record<string, unknown[]>} */
const results = {};
for (const [name, parse] of Object.entries(parsers)) {
  results[name] = [];
  for (const chunks of cuts) results[name].push(await parse(chunks));
}
console.log(JSON.stringify(results));
