/** What to try first: prompts from the world of the small default model, or for models that know the whole world. */

const SMALL_WORLD_SIDE = 128;

const SMALL_WORLD = [
  "Tell me a story about a small red star in three panels",
  "A blue heart on the left of an orange circle at sunset",
  "Three green triangles at night",
  "What can you do?",
];

const WHOLE_WORLD = [
  "Tell the story of a lighthouse keeper and a whale, with pictures",
  "A watercolour of a quiet harbour at dawn",
  "Show me how to fold a paper boat, step by step, with a picture for each step",
  "Write a haiku about rain and paint it",
];

/** @returns {string[]} prompts for the model described by `card`, an entry of /v1/models */
export function examplesFor(card) {
  const side = Math.max(...(card?.image?.default_size ?? "1024x1024").split("x").map(Number));
  return side <= SMALL_WORLD_SIDE ? SMALL_WORLD : WHOLE_WORLD;
}
