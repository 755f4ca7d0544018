/** The page: one conversation with the server it came from. Wires the parts; each of them is in a module of its own. */

import { emptyAnswer, spoken, take } from "/static/answer.js";
import { Api } from "/static/api.js";
import { Composer, MAX_PICTURES } from "/static/composer.js";
import { openDialogs, showCode, showHistory, showPicture } from "/static/dialogs.js";
import { examplesFor } from "/static/examples.js";
import { History } from "/static/history.js";
import { drawIcons } from "/static/icons.js";
import { leaveOutOldest, leaveOutPicturesBeyond, messagesOf } from "/static/prompt.js";
import { Settings } from "/static/settings.js";
import { Speed } from "/static/speed.js";
import { TurnView, make } from "/static/view.js";

const CURRENT = "plait.conversation";
const READY_POLL_MS = 1500;
const RECONNECTING = "reconnecting…";
const TITLE_CHARS = 80;

const $ = (id) => document.getElementById(id);

class Page {
  constructor() {
    this.settings = new Settings($("settings-form"), () => this.card || this.connect());
    this.api = new Api(() => this.settings.key);
    this.history = new History((id) => this.#catchUp(id));
    this.views = new Map();
    this.leftOut = make("p", "left-out note", "The conversation is long: what stands above is no longer sent to the model.");
    this.conversation = newConversation();
    this.running = null;
    this.composer = new Composer({
      onSend: (content, isEdit) => this.send(content, isEdit),
      onStop: () => this.stop(),
      onTrouble: (message) => this.toast(message),
    });
    this.actions = {
      edit: (url) => this.edit(url),
      retry: (turn) => this.retry(turn),
      showCode: (turn) => showCode(this.#body(turn), this.settings.key !== ""),
      view: (url) => showPicture(url),
      isLast: (turn) => turn === this.conversation.turns.at(-1),
      begin: () => this.open(newConversation()),
    };
  }

  async start() {
    drawIcons(document);
    openDialogs();
    this.settings.offer(null);
    $("new").addEventListener("click", () => this.open(newConversation()));
    $("open-history").addEventListener("click", () => this.#openHistory());
    $("open-settings").addEventListener("click", () => $("settings").showModal());
    $("settings").addEventListener("close", () => this.card || this.settings.asksForKey || this.connect());
    await this.history.open();
    const last = localStorage.getItem(CURRENT);
    const kept = last && (await this.history.load(last));
    if (kept) this.open(kept);
    this.composer.focus();
    await this.connect();
  }

  /** Learn what the server serves; wait for it while it loads. */
  async connect() {
    try {
      [this.card] = await this.api.models();
    } catch (error) {
      this.#showState("error", error.message);
      if (error.status === 401) this.#askForKey(error.message);
      return;
    }
    if (this.settings.asksForKey) $("settings").close();
    this.settings.offer(this.card);
    this.composer.maxPictures = Math.min(MAX_PICTURES, this.card.image?.max_per_prompt ?? MAX_PICTURES);
    this.#showExamples();
    await this.#waitUntilReady(`${this.card.id} is loading`);
  }

  #askForKey(plea) {
    this.card = null;
    if (!$("settings").open) $("settings").showModal();
    this.settings.askForKey(plea);
  }

  /** Show `meanwhile` until the server is ready to answer. */
  async #waitUntilReady(meanwhile) {
    while (!(await this.api.isReady())) {
      this.#showState("waiting", meanwhile);
      await new Promise((resolve) => setTimeout(resolve, READY_POLL_MS));
    }
    if (this.card) this.#showState("ready", this.card.id);
    else await this.connect();
  }

  /** Show a conversation, and take up its answer where a reload interrupted it. */
  open(conversation) {
    this.running?.controller.abort();
    this.running = null;
    this.composer.setBusy(false);
    localStorage.setItem(CURRENT, conversation.id);
    this.#display(conversation);
    const last = conversation.turns.at(-1);
    if (last?.isRunning) this.#takeUp(last);
    this.composer.focus();
  }

  #display(conversation) {
    this.conversation = conversation;
    this.views.clear();
    $("log").replaceChildren();
    for (const turn of conversation.turns) this.#show(turn);
    this.#showLeftOut();
    this.#showWelcome();
  }

  /** Show what another tab has made of the open conversation. While this one makes an answer it goes on, and `#save` sees to both. */
  async #catchUp(id) {
    const { conversation } = this;
    if (this.running || (id ?? conversation.id) !== conversation.id) return;
    const kept = await this.history.load(conversation.id);
    if (this.running || this.conversation !== conversation) return;
    if (kept) this.#display(kept);
    else if (conversation.turns.length) this.open(newConversation());
  }

  send(content, isEdit, id = newId()) {
    if (this.running) return;
    const options = this.#options({ isEdit, hasPictures: content.some((part) => part.type === "image_url") });
    const size = options.image?.size ?? this.card?.image?.default_size;
    const remembers = this.settings.remembers;
    const { turns } = this.conversation;
    const before = turns.at(-1);
    if (before?.isRunning) this.#giveUp(before);
    const numLeftOut = before?.numLeftOut ?? 0;
    const turn = { id, content, isEdit, options, size, remembers, numLeftOut, answer: emptyAnswer(), isRunning: true, isStopped: false, streamId: null };
    turns.push(turn);
    leaveOutPicturesBeyond(this.card?.image?.max_per_prompt ?? Infinity, turns, turn);
    this.conversation.title ||= titleOf(content);
    this.#show(turn);
    this.views.get(before)?.update("");
    this.#showWelcome();
    this.#run(turn, (hooks) => this.#ask(turn, hooks));
  }

  /** Ask with as much of the conversation as the server takes: how much its context holds only it can count. */
  async #ask(turn, hooks) {
    for (;;) {
      this.#showLeftOut();
      try {
        return await this.api.ask(this.#body(turn), hooks);
      } catch (error) {
        if (hooks.signal.aborted || !error.isTooLong || !leaveOutOldest(this.conversation.turns, turn)) throw error;
      }
    }
  }

  /** Ask the same again, which was asked last; with the seed left free it comes out differently. */
  retry(turn) {
    if (this.running) return;
    this.conversation.turns.pop();
    this.views.get(turn).element.remove();
    this.views.delete(turn);
    this.send(turn.content, turn.isEdit, turn.id);
  }

  edit(url) {
    this.composer.addPicture(url, true);
    this.#say("The picture is attached. Say what to change.");
  }

  /** Go on without an answer that another tab is waiting for; that tab keeps it. */
  #giveUp(turn) {
    turn.isRunning = false;
    turn.answer.error = "Another tab was waiting for this answer.";
  }

  stop() {
    if (!this.running) return;
    const { turn, controller } = this.running;
    turn.isStopped = true;
    if (turn.streamId) this.api.cancel(turn.streamId);
    controller.abort();
  }

  async #takeUp(turn) {
    if (!turn.streamId) {
      turn.answer.error = "The page was left before the server took the question.";
      this.#finish(turn);
      return;
    }
    const asked = turn.answer.startedAt;
    turn.answer = { ...emptyAnswer(), startedAt: asked };
    this.views.get(turn).clear();
    await this.#run(turn, (hooks) => this.api.resume(turn.streamId, 0, hooks));
  }

  /** Follow one answer from its first chunk to its last, whatever becomes of it. */
  async #run(turn, follow) {
    const controller = new AbortController();
    const speed = new Speed();
    this.running = { turn, controller };
    this.composer.setBusy(true);
    turn.answer.startedAt ||= Date.now();
    await this.#save();
    let isBroken = false;
    const paint = painter(() => this.#paint(turn, isBroken ? RECONNECTING : speed.live()));
    const clock = setInterval(paint, 500);
    try {
      await follow({
        signal: controller.signal,
        onStream: (id) => {
          turn.streamId = id;
          this.#save();
        },
        onChunk: (chunk) => {
          const pictures = countPictures(turn);
          take(turn.answer, chunk, Date.now());
          speed.note(performance.now(), turn.answer.chunks, turn.answer.steps);
          if (countPictures(turn) > pictures) this.#say(`Picture ${countPictures(turn)} is finished.`);
          paint();
        },
        onBreak: () => {
          isBroken = true;
          this.#showState("waiting", RECONNECTING);
          paint();
        },
        onMend: () => {
          isBroken = false;
          this.#waitUntilReady(RECONNECTING);
          paint();
        },
      });
    } catch (error) {
      if (!controller.signal.aborted) Object.assign(turn.answer, { error: error.message, isTooLong: Boolean(error.isTooLong) });
      if (error.status === 401) this.#askForKey(error.message);
      isBroken ||= error.status === 0;
    }
    clearInterval(clock);
    if (isBroken) this.#waitUntilReady(turn.answer.error ?? RECONNECTING);
    // Another conversation was opened: the stream runs on, and is taken up when this one is opened again.
    if (!this.conversation.turns.includes(turn)) return;
    this.running = null;
    this.#finish(turn);
  }

  #finish(turn) {
    turn.isRunning = false;
    turn.answer.drawing = null;
    turn.answer.endedAt = Date.now();
    this.composer.setBusy(false);
    this.#paint(turn, "");
    this.#say(turn.answer.error ?? `Answer: ${spoken(turn.answer)}`);
    this.#save();
  }

  #paint(turn, speed) {
    const isAtEnd = window.innerHeight + window.scrollY >= document.body.scrollHeight - 120;
    this.views.get(turn)?.update(speed);
    if (isAtEnd) window.scrollTo({ top: document.body.scrollHeight });
  }

  #show(turn) {
    const view = new TurnView(turn, this.actions);
    this.views.set(turn, view);
    $("log").append(view.element);
    window.scrollTo({ top: document.body.scrollHeight });
  }

  #options(kind) {
    const options = { model: this.card?.id, stream: true, stream_options: { include_usage: true } };
    this.settings.applyTo(options, kind);
    return options;
  }

  /** The whole request of a turn: what came before it in the conversation, and its own message. */
  #body(turn) {
    const { model, ...others } = turn.options;
    return { model, messages: messagesOf(this.conversation.turns, turn), ...others };
  }

  /** Say above which turn the newest message's part of the conversation begins, where it is not the whole. */
  #showLeftOut() {
    this.leftOut.remove();
    const { turns } = this.conversation;
    const { remembers, numLeftOut } = turns.at(-1) ?? {};
    if (remembers && numLeftOut) this.views.get(turns[numLeftOut]).element.before(this.leftOut);
  }

  #showWelcome() {
    $("welcome").hidden = this.conversation.turns.length > 0;
  }

  #showExamples() {
    $("examples").replaceChildren(
      ...examplesFor(this.card).map((text) => {
        const item = make("li", "");
        const button = make("button", "example", text);
        button.type = "button";
        button.addEventListener("click", () => this.send([{ type: "text", text }], false));
        item.append(button);
        return item;
      }),
    );
  }

  async #openHistory() {
    showHistory(await this.history.all(), {
      open: (conversation) => this.open(conversation),
      remove: async (conversation) => {
        if (conversation.id === this.conversation.id) this.#leave();
        await this.history.remove(conversation.id);
      },
      clear: async () => {
        this.#leave();
        await this.history.clear();
      },
    });
  }

  /** Leave the open conversation for good, with the answer that is being made in it. */
  #leave() {
    this.stop();
    this.open(newConversation());
  }

  /** Keep the conversation; where another tab has gone on with it differently, as one of its own. */
  async #save() {
    const { conversation } = this;
    const { id } = conversation;
    if (!conversation.turns.length) return;
    localStorage.setItem(CURRENT, id);
    try {
      if ((await this.history.save(conversation)) || conversation.id !== id) return;
      conversation.id = newId();
      this.toast("Another tab went on with this conversation. Both are in the history.");
      await this.#save();
    } catch {
      this.toast("This browser has no room left for the history.");
    }
  }

  #showState(state, text) {
    $("dot").className = `dot ${state}`;
    $("model").textContent = text;
  }

  #say(text) {
    $("status").textContent = text;
  }

  toast(message) {
    $("toast").textContent = message;
    $("toast").hidden = false;
    clearTimeout(this.toastTimer);
    this.toastTimer = setTimeout(() => ($("toast").hidden = true), 6000);
  }
}

function newConversation() {
  return { id: newId(), title: "", turns: [] };
}

function newId() {
  return crypto.randomUUID?.() ?? String(Math.random());
}

function titleOf(content) {
  const words = content.find((part) => part.type === "text")?.text ?? "A picture";
  return words.length > TITLE_CHARS ? `${words.slice(0, TITLE_CHARS)}…` : words;
}

function countPictures(turn) {
  return turn.answer.parts.filter((part) => part?.kind === "picture").length;
}

/** Return a function that calls `paint` once in the next frame, however often it is called before. */
function painter(paint) {
  let isDue = false;
  return () => {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => {
      isDue = false;
      paint();
    });
  };
}

new Page().start();
