/** A request as code that makes it again: curl, Python, JavaScript. */

/** @returns {[string, string][]} language and code; `body` as it was sent, `origin` of the server, `needsKey` when a key was used */
export function snippets(body, origin, needsKey) {
  return [
    ["curl", curl(body, origin, needsKey)],
    ["Python", python(body, origin, needsKey)],
    ["JavaScript", javascript(body, origin, needsKey)],
  ];
}

/** Shorten the pictures in a piece of code, for showing it. */
export function abridged(code) {
  return code.replace(/(data:image\/[a-z]+;base64,[A-Za-z0-9+/]{24})[A-Za-z0-9+/=]{40,}/g, (_, head) => `${head}…`);
}

function curl(body, origin, needsKey) {
  const quoted = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  const key = needsKey ? '  -H "Authorization: Bearer $PLAIT_API_KEY" \\\n' : "";
  return `curl -N ${origin}/v1/chat/completions \\\n${key}  -H 'Content-Type: application/json' \\\n  -d '${quoted}'\n`;
}

const OFFICIAL = ["model", "messages", "stream", "stream_options", "max_completion_tokens", "temperature", "seed"];

function python(body, origin, needsKey) {
  const named = OFFICIAL.filter((name) => name in body).map((name) => `    ${name}=${pythonLiteral(body[name], 1)},\n`);
  const others = Object.fromEntries(Object.entries(body).filter(([name]) => !OFFICIAL.includes(name)));
  const extra = Object.keys(others).length ? `    extra_body=${pythonLiteral(others, 1)},\n` : "";
  return `import base64${needsKey ? "\nimport os" : ""}

from openai import OpenAI

client = OpenAI(base_url="${origin}/v1", api_key=${needsKey ? 'os.environ["PLAIT_API_KEY"]' : '"none"'})
stream = client.chat.completions.create(
${named.join("")}${extra})
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
        for image in (choice.delta.model_extra or {}).get("images", []):
            with open(f"picture-{image['index']}.png", "wb") as file:
                file.write(base64.b64decode(image["image_url"]["url"].partition(",")[2]))
`;
}

function pythonLiteral(value, depth) {
  const pad = "    ".repeat(depth + 1);
  const close = "    ".repeat(depth);
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return value.length ? `[\n${value.map((item) => `${pad}${pythonLiteral(item, depth + 1)},\n`).join("")}${close}]` : "[]";
  if (typeof value === "object") {
    return `{\n${Object.entries(value).map(([name, item]) => `${pad}${JSON.stringify(name)}: ${pythonLiteral(item, depth + 1)},\n`).join("")}${close}}`;
  }
  return JSON.stringify(value);
}

function javascript(body, origin, needsKey) {
  const key = needsKey ? "process.env.PLAIT_API_KEY" : '"none"';
  return `import fs from "node:fs";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${origin}/v1", apiKey: ${key} });
const stream = await client.chat.completions.create(${JSON.stringify(body, null, 2)});
for await (const chunk of stream) {
  for (const { delta } of chunk.choices) {
    process.stdout.write(delta.content ?? "");
    for (const image of delta.images ?? []) {
      fs.writeFileSync(\`picture-\${image.index}.png\`, Buffer.from(image.image_url.url.split(",")[1], "base64"));
    }
  }
}
`;
}
