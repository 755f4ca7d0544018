/** Conversations of the past, in this browser's IndexedDB: the newest forty, and no more than 64 MB of them. */

const MAX_CONVERSATIONS = 40;
const MAX_CHARS = 64 << 20;

export class History {
  #database;

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

  async save(conversation) {
    const kept = { ...conversation, savedAt: Date.now(), chars: JSON.stringify(conversation.turns).length };
    await this.#run("readwrite", (store) => store.put(structuredClone(kept)), () => this.memory.set(kept.id, structuredClone(kept)));
    await this.#trim();
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
    await this.#run("readwrite", (store) => store.delete(id), () => this.memory.delete(id));
  }

  async clear() {
    await this.#run("readwrite", (store) => store.clear(), () => this.memory.clear());
  }

  async #trim() {
    let chars = 0;
    for (const [place, conversation] of (await this.all()).entries()) {
      chars += conversation.chars;
      if (place > 0 && (place >= MAX_CONVERSATIONS || chars > MAX_CHARS)) await this.remove(conversation.id);
    }
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
