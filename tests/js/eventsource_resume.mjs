// Follows one stream with the npm package eventsource, unchanged, to its last event; prints the ids it saw as one line of JSON.
// Usage: node eventsource_resume.mjs URL
import assert from "node:assert/strict";
import { EventSource } from "eventsource";

const [url] = process.argv.slice(2);
assert(url);
/** @type {string[]} */
const ids = [];
let connections = 0;
// While the client waits to connect again, nothing of its own keeps node going.
const alive = setInterval(() => {}, 1000);
const source = new EventSource(url);
source.onopen = () => {
  connections += 1;
};
source.addEventListener("error", (error) => {
  process.stderr.write(`${error.code ?? ""} ${error.message ?? "disconnected"}\n`);
});
source.addEventListener("message", (event) => {
  ids.push(event.lastEventId);
  if (ids.length === 1) process.stderr.write("first event\n");
  if (event.data === "[DONE]") {
    source.close();
    clearInterval(alive);
    console.log(JSON.stringify({ ids, connections }));
  }
});
