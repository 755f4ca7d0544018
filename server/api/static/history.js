/** Conversations of the past, in this browser's IndexedDB: the newest forty, and no more than 64 MB of them. All tabs share them. */

const MAX_CONVERSATIONS = 40;
const MAX_CHARS = 64 << 20;

export class History {
  #database;
  #tabs = new BroadcastChannel("plait.history");

  /** `onChange(id)` is told which conversation another tab has saved or forgotten; null is all of them. */
  constructor(onChange) {
    this.#tabs.addEventListener("message", ({ data }) => onChange(data));
  }

  /** Open the store; a browser that has none (a private window) keeps the conversations for as long as the page is open. */
  async open() {
    this.#database = await new Promise((resolve) => {
      const request = indexedDB.open("plait", 1);
      request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => resolve(null);
    });
    this.memory = new Map();
  }

  /**
   * Keep a conversation, unless another tab has added to it what this one does not know.
   * @returns {Promise<boolean>} whether it is kept
   */
  async save(conversation) {
    const kept = structuredClone({ ...conversation, savedAt: Date.now(), chars: JSON.stringify(conversation.turns).length });
    if (!(await this.#put(kept))) return false;
    this.#tabs.postMessage(kept.id);
    await this.#trim();
    return true;
  }

  async load(id) {
    return this.#run("readonly", (store) => store.get(id), () => this.memory.get(id));
  }

  /** @returns all conversations, newest first */
  async all() {
    const all = await this.#run("readonly", (store) => store.getAll(), () => [...this.memory.values()]);
    return all.sort((a, b) => b.savedAt - a.savedAt);
  }

  async remove(id) {
    await this.#delete(id);
    this.#tabs.postMessage(id);
  }

  async clear() {
    await this.#run("readwrite", (store) => store.clear(), () => this.memory.clear());
    this.#tabs.postMessage(null);
  }

  async #trim() {
    let chars = 0;
    for (const [place, conversation] of (await this.all()).entries()) {
      chars += conversation.chars;
      if (place > 0 && (place >= MAX_CONVERSATIONS || chars > MAX_CHARS)) await this.#delete(conversation.id);
    }
  }

  async #delete(id) {
    await this.#run("readwrite", (store) => store.delete(id), () => this.memory.delete(id));
  }

  /** Look and put in one transaction, which no other tab can come into. */
  #put(kept) {
    if (!this.#database) return Promise.resolve(Boolean(this.memory.set(kept.id, kept)));
    return new Promise((resolve, reject) => {
      const transaction = this.#database.transaction("conversations", "readwrite");
      const store = transaction.objectStore("conversations");
      const stored = store.get(kept.id);
      let isKept = false;
      stored.onsuccess = () => {
        isKept = !hasOtherTurns(stored.result, kept);
        if (isKept) store.put(kept);
      };
      transaction.oncomplete = () => resolve(isKept);
      transaction.onabort = () => reject(transaction.error);
    });
  }

  #run(mode, use, otherwise) {
    if (!this.#database) return Promise.resolve(otherwise());
    return new Promise((resolve, reject) => {
      const request = use(this.#database.transaction("conversations", mode).objectStore("conversations"));
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  }
}

function hasOtherTurns(stored, kept) {
  const known = new Set(kept.turns.map((turn) => turn.id));
  return stored !== undefined && stored.turns.some((turn) => !known.has(turn.id));
}
