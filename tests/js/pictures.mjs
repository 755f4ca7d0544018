// The official JavaScript client's Images and Responses APIs; prints what it saw as one line of JSON.
// Usage: node pictures.mjs BASE_URL MODEL
import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";

const [baseURL, model] = process.argv.slice(2);
assert(baseURL && model);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, timeout: 120_000 });
/** Fields of ours beside the official ones. */
const own = { num_inference_steps: 5, seed: 1 };

/** @param {string | null | undefined} base64 */
function fileType(base64) {
  const bytes = Buffer.from(base64 ?? "", "base64");
  return bytes.subarray(0, 4).equals(Buffer.from("\x89PNG", "latin1")) ? "png" : bytes.toString("latin1", 8, 12).toLowerCase();
}

async function generate() {
  const prompt = { model, prompt: "a red cat", size: "64x48", ...own };
  const whole = await client.images.generate(prompt);
  const streamed = [];
  for await (const event of await client.images.generate({ ...prompt, stream: true, partial_images: 2 })) {
    streamed.push({ type: event.type, file: fileType(event.b64_json), isWhole: event.b64_json === whole.data?.[0]?.b64_json });
  }
  return { whole: { file: fileType(whole.data?.[0]?.b64_json), size: whole.size, isCounted: (whole.usage?.total_tokens ?? 0) > 0 }, streamed };
}

async function edit() {
  const drawn = await client.images.generate({ model, prompt: "a cat", size: "64x48", ...own });
  const image = await toFile(Buffer.from(drawn.data?.[0]?.b64_json ?? "", "base64"), "cat.png", { type: "image/png" });
  const whole = await client.images.edit({ model, image, prompt: "make it blue", ...own });
  const streamed = [];
  for await (const event of await client.images.edit({ model, image: [image], prompt: "make it blue", stream: true, partial_images: 1, ...own })) {
    streamed.push(event.type);
  }
  return { file: fileType(whole.data?.[0]?.b64_json), streamed };
}

async function respond() {
  /** @type {OpenAI.Responses.Tool.ImageGeneration & { max_images: number } & typeof own} */
  const tool = { type: "image_generation", size: "64x48", partial_images: 2, max_images: 2, ...own };
  const stream = client.responses.stream({ model, input: "tell a story of the red cat", tools: [tool], max_output_tokens: 12 });
  const types = [];
  const numbers = [];
  for await (const event of stream) {
    types.push(event.type);
    numbers.push(event.sequence_number);
  }
  const final = await stream.finalResponse();
  const again = await client.responses.retrieve(final.id);
  return {
    types,
    isDense: numbers.every((number, place) => number === place),
    items: final.output.map((item) => item.type),
    kept: { status: again.status, items: again.output.map((item) => item.type) },
    status: final.status,
  };
}

console.log(JSON.stringify({ generate: await generate(), edit: await edit(), respond: await respond() }));
