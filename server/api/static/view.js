/** Puts a conversation on the page. Each turn has one element; an answer's element is brought up to date in place as it grows. */

import { icon } from "/static/icons.js";
import { summary } from "/static/speed.js";

const RING = 2 * Math.PI * 15;

/** What the page's owner does when somebody uses a turn: edit(url), retry(turn), showCode(turn), view(url), begin(); isLast(turn) says whether none follows. */
export class TurnView {
  #parts = [];
  #drawing = null;

  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.element = make("article", "turn");
    this.element.setAttribute("aria-label", "Exchange");
    this.asked = make("div", "asked");
    this.answer = make("div", "answer");
    this.thought = make("details", "thought");
    this.body = make("div", "body");
    this.foot = make("div", "foot");
    this.thought.append(make("summary", "", "Plan"), make("p", ""));
    this.answer.append(this.thought, this.body, this.foot);
    this.element.append(this.asked, this.answer);
    this.#showQuestion();
    this.update("");
  }

  /** Bring the answer up to date; `speed` is shown while it runs. */
  update(speed) {
    const { answer } = this.turn;
    this.answer.setAttribute("aria-busy", String(this.turn.isRunning));
    this.thought.hidden = !answer.thought;
    this.thought.lastChild.textContent = answer.thought;
    answer.parts.forEach((part, place) => part && this.#showPart(part, place));
    this.#showDrawing(answer.drawing);
    this.#showFoot(speed);
  }

  /** Forget what is shown of the answer, for one that begins again. */
  clear() {
    this.#parts = [];
    this.#drawing = null;
    this.body.replaceChildren();
  }

  #showQuestion() {
    const bubble = make("div", "bubble");
    bubble.append(hidden("You: "));
    for (const part of this.turn.content) {
      if (part.type === "text") bubble.append(make("p", "", part.text));
      else bubble.append(Object.assign(make("img", "given"), { src: part.image_url.url, alt: "Picture you sent" }));
    }
    this.asked.append(bubble);
  }

  #showPart(part, place) {
    let shown = this.#parts[place];
    if (!shown) {
      shown = part.kind === "text" ? make("p", "words") : this.#finishedPicture(part.url);
      this.#parts[place] = shown;
      if (part.kind === "picture" && this.#drawing) {
        this.#drawing.replaceWith(shown);
        this.#drawing = null;
      } else {
        this.body.append(shown);
      }
    }
    if (part.kind === "text" && shown.textContent !== part.text) shown.textContent = part.text;
    if (part.kind === "text") shown.classList.toggle("writing", this.turn.isRunning && !this.turn.answer.drawing && place === this.turn.answer.parts.length - 1);
  }

  #finishedPicture(url) {
    const figure = make("figure", "picture done");
    const open = make("button", "frame");
    open.type = "button";
    open.setAttribute("aria-label", "Edit this picture");
    const image = Object.assign(make("img", ""), { src: url, alt: "Picture drawn by the model" });
    image.addEventListener("load", () => fit(figure, image.naturalWidth, image.naturalHeight));
    open.append(image);
    open.addEventListener("click", () => this.actions.edit(url));
    const tools = make("figcaption", "tools");
    const save = make("a", "quiet round");
    Object.assign(save, { href: url, download: "plait.png" });
    save.setAttribute("aria-label", "Save this picture");
    save.append(icon("save"));
    tools.append(
      button("Edit", "pencil", () => this.actions.edit(url)),
      button("Enlarge", "grow", () => this.actions.view(url), true),
      save,
    );
    figure.append(open, tools);
    return figure;
  }

  #showDrawing(drawing) {
    if (!drawing) {
      this.#drawing?.remove();
      this.#drawing = null;
      return;
    }
    if (!this.#drawing) {
      this.#drawing = drawingFrame(this.turn.size);
      this.body.append(this.#drawing);
    }
    const done = drawing.step / drawing.numSteps;
    const [image, ring] = [this.#drawing.querySelector("img"), this.#drawing.querySelector(".ring")];
    if (drawing.preview && image.src !== drawing.preview) {
      image.src = drawing.preview;
      image.hidden = false;
    }
    this.#drawing.style.setProperty("--blur", `${(1 - done) * 9}px`);
    ring.setAttribute("aria-valuenow", drawing.step);
    ring.setAttribute("aria-valuemax", drawing.numSteps);
    ring.querySelector("circle:last-child").style.strokeDashoffset = String(RING * (1 - done));
    this.#drawing.querySelector(".count").textContent = `${drawing.step} of ${drawing.numSteps}`;
  }

  #showFoot(speed) {
    const { answer, isRunning } = this.turn;
    const nodes = [];
    if (answer.error) nodes.push(make("p", "failure", answer.error));
    const isWaiting = isRunning && !answer.parts.length && !answer.drawing && !answer.thought;
    if (isWaiting) nodes.push(dots());
    else nodes.push(make("span", "speed", isRunning ? speed : [summary(answer), this.turn.isStopped ? "stopped" : answer.finish === "length" ? "cut at the limit" : ""].filter(Boolean).join(" · ")));
    if (answer.isTooLong) nodes.push(button("New conversation", "plus", () => this.actions.begin()));
    if (!isRunning) nodes.push(this.#tools());
    // Buttons keep their focus: nothing is replaced unless something changed.
    const key = nodes.map((node) => node.className + node.textContent).join("|");
    if (key === this.shownFoot) return;
    this.shownFoot = key;
    this.foot.replaceChildren(...nodes);
  }

  #tools() {
    const tools = make("span", "tools");
    // Asked again in the middle, a turn would take those after it with it.
    if (this.actions.isLast(this.turn)) tools.append(button("Again", "again", () => this.actions.retry(this.turn)));
    tools.append(button("Code", "code", () => this.actions.showCode(this.turn)));
    return tools;
  }
}

function drawingFrame(size) {
  const figure = make("figure", "picture drawing");
  const frame = make("div", "frame");
  const image = Object.assign(make("img", ""), { alt: "The picture so far", hidden: true });
  frame.append(image, progressRing(), make("span", "count"));
  figure.append(frame);
  const [width, height] = (size ?? "1x1").split("x").map(Number);
  fit(figure, width, height);
  return figure;
}

function progressRing() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.classList.add("ring");
  svg.setAttribute("viewBox", "0 0 36 36");
  svg.setAttribute("role", "progressbar");
  svg.setAttribute("aria-label", "Drawing a picture");
  svg.setAttribute("aria-valuemin", "0");
  for (let place = 0; place < 2; place++) {
    const circle = document.createElementNS(svg.namespaceURI, "circle");
    for (const [name, value] of [["cx", 18], ["cy", 18], ["r", 15], ["pathLength", RING]]) circle.setAttribute(name, value);
    svg.append(circle);
  }
  svg.lastChild.style.strokeDasharray = String(RING);
  svg.lastChild.style.strokeDashoffset = String(RING);
  return svg;
}

/** Give a figure its picture's shape; small pictures are shown larger, with their pixels left square. */
function fit(figure, width, height) {
  figure.style.setProperty("--ratio", `${width} / ${height}`);
  figure.classList.toggle("tiny", Math.max(width, height) <= 128);
}

function dots() {
  const waiting = make("span", "dots");
  waiting.append(make("i", ""), make("i", ""), make("i", ""), hidden("Waiting for the answer"));
  return waiting;
}

function button(text, iconName, onClick, isIconOnly = false) {
  const made = make("button", isIconOnly ? "quiet round" : "quiet");
  made.type = "button";
  made.append(icon(iconName));
  if (isIconOnly) made.setAttribute("aria-label", text);
  else made.append(make("span", "", text));
  made.addEventListener("click", onClick);
  return made;
}

function hidden(text) {
  return make("span", "hidden", text);
}

/** @returns {HTMLElement} */
export function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
