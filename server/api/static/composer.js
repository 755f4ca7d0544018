/** Where a message is made: words, and pictures that are chosen, dropped, pasted or clicked. */

import { icon } from "/static/icons.js";
import { asDataUri, filesOf, readPicture } from "/static/pictures.js";
import { make } from "/static/view.js";

const $ = (id) => document.getElementById(id);

/** Of one message; a server may read fewer. */
export const MAX_PICTURES = 8;
const SAY = "Ask for words and pictures";
const CHANGE = "Say what to change";

export class Composer {
  #pictures = [];
  #isBusy = false;
  maxPictures = MAX_PICTURES;

  /** `onSend(content, isEdit)`, `onStop()`, `onTrouble(message)`. */
  constructor({ onSend, onStop, onTrouble }) {
    Object.assign(this, { onSend, onStop, onTrouble });
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    $("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    $("prompt").addEventListener("input", () => this.#grow());
    $("stop").addEventListener("click", () => this.onStop());
    $("attach").addEventListener("click", () => $("files").click());
    $("files").addEventListener("change", () => {
      this.#addFiles([...$("files").files]);
      $("files").value = "";
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#isBusy && !document.querySelector("dialog[open]")) this.onStop();
    });
    this.#listenForPictures();
  }

  focus() {
    if (matchMedia("(hover: hover)").matches) $("prompt").focus();
  }

  /** Attach a picture of the conversation; with `isEdit` the next message says what to change in it. */
  addPicture(url, isEdit) {
    if (this.#pictures.length >= this.maxPictures) {
      this.onTrouble(`A message takes ${this.maxPictures} pictures.`);
      return;
    }
    if (!this.#pictures.some((picture) => picture.url === url)) this.#pictures.push({ url, isEdit });
    this.#showChips();
    $("prompt").focus();
  }

  setBusy(isBusy) {
    const hadFocus = [$("send"), $("stop")].includes(document.activeElement);
    this.#isBusy = isBusy;
    $("send").hidden = isBusy;
    $("stop").hidden = !isBusy;
    if (hadFocus) (isBusy ? $("stop") : $("prompt")).focus();
  }

  async #send() {
    const text = $("prompt").value.trim();
    if (this.#isBusy || (!text && !this.#pictures.length)) return;
    const isEdit = this.#pictures.some((picture) => picture.isEdit);
    const urls = await Promise.all(this.#pictures.map((picture) => asDataUri(picture.url, "")));
    const content = urls.map((url) => ({ type: "image_url", image_url: { url } }));
    if (text) content.push({ type: "text", text });
    this.#pictures = [];
    $("prompt").value = "";
    this.#showChips();
    this.#grow();
    this.onSend(content, isEdit);
  }

  #listenForPictures() {
    document.addEventListener("paste", (event) => {
      const files = filesOf(event.clipboardData);
      if (!files.length) return;
      event.preventDefault();
      this.#addFiles(files);
    });
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      document.body.classList.add("dropping");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) document.body.classList.remove("dropping");
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      document.body.classList.remove("dropping");
      this.#addFiles([...event.dataTransfer.files]);
    });
  }

  async #addFiles(files) {
    for (const file of files) {
      try {
        this.addPicture(await readPicture(file), false);
      } catch (error) {
        this.onTrouble(error.message);
      }
    }
  }

  #showChips() {
    $("chips").hidden = !this.#pictures.length;
    $("prompt").placeholder = this.#pictures.some((picture) => picture.isEdit) ? CHANGE : SAY;
    $("chips").replaceChildren(...this.#pictures.map((picture, place) => this.#chip(picture, place)));
  }

  #chip(picture, place) {
    const item = make("li", "chip");
    const remove = make("button", "quiet round");
    remove.type = "button";
    remove.setAttribute("aria-label", `Take picture ${place + 1} away`);
    remove.append(icon("cross"));
    remove.addEventListener("click", () => {
      this.#pictures.splice(place, 1);
      this.#showChips();
      $("prompt").focus();
    });
    item.append(Object.assign(make("img", ""), { src: picture.url, alt: `Picture ${place + 1} of this message` }), remove);
    return item;
  }

  #grow() {
    $("prompt").style.height = "auto";
    $("prompt").style.height = `${Math.min($("prompt").scrollHeight, 200)}px`;
  }
}
