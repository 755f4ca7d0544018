// Chat through the official client and through the Vercel AI SDK; prints what they saw as one line of JSON.
// Usage: node chat.mjs BASE_URL MODEL
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";

const [baseURL, model] = process.argv.slice(2);
assert(baseURL && model);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, timeout: 60_000 });
const plait = createOpenAICompatible({ name: "plait", baseURL, includeUsage: true })(model);
const story = { model, messages: [{ role: /** @type {const} */ ("user"), content: "story" }], modalities: /** @type {any} */ (["text", "image"]) };
const WEATHER = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

/** @param {unknown} message @returns {{ images: { index: number }[], content_parts: { type: string }[] }} */
const ours = (message) => /** @type {any} */ (message);

async function plain() {
  const completion = await client.chat.completions.create(story);
  const message = completion.choices[0]?.message;
  return { text: message?.content, images: ours(message).images.length, parts: ours(message).content_parts.map((part) => part.type) };
}

async function streamed() {
  const seen = { text: "", images: /** @type {number[]} */ ([]), usage: 0, reason: /** @type {string | null | undefined} */ (null) };
  for await (const chunk of await client.chat.completions.create({ ...story, stream: true, stream_options: { include_usage: true } })) {
    const choice = chunk.choices[0];
    seen.text += choice?.delta.content ?? "";
    seen.images.push(...(ours(choice?.delta ?? {}).images ?? []).map((image) => image.index));
    seen.usage = chunk.usage?.total_tokens ?? seen.usage;
    seen.reason = choice?.finish_reason ?? seen.reason;
  }
  return seen;
}

async function helped() {
  const runner = client.chat.completions.stream({ ...story, n: 2 });
  const final = await runner.finalChatCompletion();
  return final.choices.map((choice) => choice.message.content);
}

async function called() {
  const city = tool({ description: "now", inputSchema: jsonSchema(/** @type {any} */ (WEATHER)) });
  const { toolCalls, finishReason } = await generateText({ model: plait, prompt: "hi", tools: { get_weather: city } });
  return { calls: toolCalls.map((call) => [call.toolName, call.input]), finishReason };
}

async function sdk() {
  const { text, usage } = await generateText({ model: plait, prompt: "hi" });
  const stream = streamText({ model: plait, prompt: "hi", providerOptions: { plait: { think: true } } });
  let words = "";
  let thoughts = "";
  for await (const part of stream.fullStream) {
    if (part.type === "text-delta") words += part.text;
    if (part.type === "reasoning-delta") thoughts += part.text;
  }
  return { text, tokens: usage.totalTokens, words, thoughts, reason: await stream.finishReason };
}

console.log(JSON.stringify({ plain: await plain(), streamed: await streamed(), helped: await helped(), called: await called(), sdk: await sdk() }));
