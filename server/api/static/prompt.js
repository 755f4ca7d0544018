/** What of a conversation goes along with a turn: as much as the server reads, the newest of it. No DOM here. */

import { asMessage } from "/static/answer.js";

/** Return the messages of a turn's request: the turns before it but for the oldest `turn.numLeftOut`, and its own message. */
export function messagesOf(turns, turn) {
  const earlier = sentAlong(turns, turn).flatMap(({ content, answer }) => [{ role: "user", content: simplest(content) }, asMessage(answer)]);
  return [...earlier, { role: "user", content: simplest(turn.content) }];
}

/** Leave out the oldest turns until no more than `maxPictures` pictures go along; the turn's own message always does. */
export function leaveOutPicturesBeyond(maxPictures, turns, turn) {
  const count = () => [turn, ...sentAlong(turns, turn)].reduce((sum, { content, answer }) => sum + countPictures(content, answer), 0);
  while (count() > maxPictures && leaveOutOldest(turns, turn));
}

/** Leave out the oldest turn that would go along. Returns whether there was one. */
export function leaveOutOldest(turns, turn) {
  const [oldest] = sentAlong(turns, turn);
  if (oldest) turn.numLeftOut = turns.indexOf(oldest) + 1;
  return oldest !== undefined;
}

/** The turns before this one that its request holds; an answer that failed says nothing. */
function sentAlong(turns, turn) {
  if (!turn.remembers) return [];
  return turns.slice(turn.numLeftOut, turns.indexOf(turn)).filter(({ answer }) => !answer.error && answer.parts.length);
}

function countPictures(content, answer) {
  return content.filter((part) => part.type === "image_url").length + answer.parts.filter((part) => part?.kind === "picture").length;
}

/** Words alone are sent as a string, as anybody would write them. */
function simplest(content) {
  return content.length === 1 && content[0].type === "text" ? content[0].text : content;
}
