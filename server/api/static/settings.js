/** How answers are asked for: a form made from what the model allows, kept in the browser. An untouched field leaves the choice to the model. */

const STORED = "plait.settings";
const MODALITIES = { auto: null, both: ["text", "image"], image: ["image"], text: ["text"] };

/** Every field: its name, what it says, and its range where it is a number. `automatic` is what an untouched one means. */
const FIELDS = [
  { name: "modalities", label: "Answer with", options: [["auto", "what the model finds fit"], ["both", "words and pictures"], ["image", "pictures only"], ["text", "words only"]] },
  { name: "size", label: "Picture size", options: [] },
  { name: "max_images", label: "Most pictures", min: 1, max: 8, step: 1 },
  { name: "steps", label: "Denoise steps", min: 4, max: 100, step: 1, hint: "More steps are slower and finer." },
  { name: "text_scale", label: "Text guidance", min: 1, max: 10, step: 0.5, hint: "How closely a picture follows the words; 1 is off." },
  { name: "image_scale", label: "Image guidance", min: 1, max: 5, step: 0.25, hint: "How closely an edit keeps to its picture; 1 is off." },
  { name: "seed", label: "Seed", min: 0, max: 2 ** 31, step: 1, isTyped: true, automatic: "new each time", hint: "The same seed draws the same picture." },
  { name: "temperature", label: "Temperature", min: 0, max: 1.5, step: 0.1, hint: "0 always takes the likeliest word." },
  { name: "max_tokens", label: "Most words (tokens)", min: 16, max: 4096, step: 16 },
  { name: "think", label: "Plan before drawing", isSwitch: true },
  { name: "remember", label: "Send the conversation so far", isSwitch: true, initial: true },
  { name: "key", label: "API key", isSecret: true, hint: "For servers that ask for one. Kept in this browser." },
];

export class Settings {
  #values = { modalities: "auto" };
  #form;
  #family = "";
  #plea = "";

  /** `onKey()` is told that there is a key to try. */
  constructor(form, onKey) {
    this.#form = form;
    this.onKey = onKey;
    for (const field of FIELDS) if (field.initial !== undefined) this.#values[field.name] = field.initial;
    try {
      Object.assign(this.#values, JSON.parse(localStorage.getItem(STORED)));
    } catch {
      localStorage.removeItem(STORED);
    }
  }

  get key() {
    return this.#values.key ?? "";
  }

  /** Whether the form asks for a key that the server wants. */
  get asksForKey() {
    return this.#plea !== "";
  }

  get remembers() {
    return this.#values.remember;
  }

  /** Build the form for a model; `card` is its entry in /v1/models. */
  offer(card) {
    this.#plea = "";
    this.#build(card);
  }

  /** Put the key before everything else, and say why with `plea`. */
  askForKey(plea) {
    this.#plea = plea;
    this.#build(null);
    const input = this.#form.elements.namedItem("key");
    input.focus();
    input.select();
  }

  #build(card) {
    this.#family = card?.family ?? "";
    const sizes = card?.image?.offered_sizes ?? [];
    FIELDS.find((field) => field.name === "size").options = [["", `the model's own${card?.image ? ` (${card.image.default_size})` : ""}`], ...sizes.map((size) => [size, size.replace("x", " × ")])];
    const fields = this.asksForKey ? FIELDS.toSorted((a, b) => Boolean(b.isSecret) - Boolean(a.isSecret)) : FIELDS;
    this.#form.replaceChildren(...fields.map((field) => this.#row(field)), this.#resetButton(card));
  }

  /** Put the choices into a request body. */
  applyTo(body, { isEdit, hasPictures }) {
    const { modalities, size, max_images, steps, text_scale, image_scale, seed, temperature, max_tokens, think } = this.#values;
    const chosen = MODALITIES[modalities] ?? this.#fitting(isEdit, hasPictures);
    if (chosen) body.modalities = chosen;
    if (temperature !== undefined) body.temperature = temperature;
    if (max_tokens !== undefined) body.max_completion_tokens = max_tokens;
    if (think) body.think = true;
    body.seed = seed ?? Math.floor(Math.random() * 2 ** 31);
    if (chosen && !chosen.includes("image")) return;
    const image = { size: size || undefined, max_images, num_inference_steps: steps, text_scale, image_scale, seed: body.seed, progress: true, partial_images: 3 };
    body.image = Object.fromEntries(Object.entries(image).filter(([, value]) => value !== undefined));
  }

  /** What an answer holds where nobody chose. BAGEL never draws unasked: questions about pictures get words, anything else both. */
  #fitting(isEdit, hasPictures) {
    if (isEdit) return ["image"];
    if (this.#family !== "bagel") return null;
    return hasPictures ? ["text"] : ["text", "image"];
  }

  #row(field) {
    const row = element("div", "row");
    const id = `set-${field.name}`;
    const label = Object.assign(element("label", ""), { htmlFor: id, textContent: field.label });
    const input = field.options ? this.#select(field) : this.#input(field);
    input.id = id;
    input.name = field.name;
    row.append(label, ...(field.min !== undefined && !field.isTyped ? this.#ranged(field, input) : [input]));
    const isPlea = field.isSecret && this.asksForKey;
    if (field.hint) {
      const hint = Object.assign(element("p", isPlea ? "failure" : "note"), { id: `${id}-hint`, textContent: isPlea ? this.#plea : field.hint });
      if (isPlea) hint.setAttribute("role", "alert");
      input.setAttribute("aria-describedby", hint.id);
      row.append(hint);
    }
    return row;
  }

  #select(field) {
    const select = element("select", "");
    for (const [value, text] of field.options) select.append(new Option(text, value, false, value === (this.#values[field.name] ?? "")));
    select.addEventListener("change", () => this.#set(field.name, select.value || undefined));
    return select;
  }

  #input(field) {
    const input = element("input", "");
    if (field.isSwitch) {
      Object.assign(input, { type: "checkbox", checked: Boolean(this.#values[field.name]) });
      input.addEventListener("change", () => this.#set(field.name, input.checked));
    } else if (field.isSecret) {
      Object.assign(input, { type: "password", autocomplete: "off", value: this.key });
      input.addEventListener("change", () => input.value.trim() === this.key || this.#takeKey(input));
      input.addEventListener("keydown", (event) => {
        if (event.key !== "Enter") return;
        event.preventDefault();
        this.#takeKey(input);
      });
    } else {
      Object.assign(input, { type: field.isTyped ? "number" : "range", min: field.min, max: field.max, step: field.step });
      if (field.isTyped) input.placeholder = field.automatic;
      input.value = this.#values[field.name] ?? (field.isTyped ? "" : field.min);
      input.addEventListener("input", () => {
        const number = input.valueAsNumber;
        if (!input.validity.valid) return;
        this.#set(field.name, Number.isNaN(number) ? undefined : number);
      });
    }
    return input;
  }

  /** A slider with what it stands at; the value is a button that hands the choice back to the model. */
  #ranged(field, input) {
    const value = element("button", "value");
    value.type = "button";
    const show = () => {
      const number = this.#values[field.name];
      value.textContent = number ?? "auto";
      value.setAttribute("aria-label", number === undefined ? `${field.label} is left to the model` : `${field.label} is ${number}; leave it to the model`);
      input.setAttribute("aria-valuetext", number === undefined ? "left to the model" : String(number));
      input.classList.toggle("untouched", number === undefined);
    };
    input.addEventListener("input", show);
    value.addEventListener("click", () => {
      this.#set(field.name, undefined);
      input.value = field.min;
      show();
    });
    show();
    return [value, input];
  }

  #resetButton(card) {
    const button = Object.assign(element("button", "plain"), { type: "button", textContent: "Back to the model's own choices" });
    button.addEventListener("click", () => {
      this.#values = { modalities: "auto", remember: true, key: this.#values.key };
      this.#save();
      this.offer(card);
    });
    return button;
  }

  #takeKey(input) {
    this.#set("key", input.value.trim() || undefined);
    this.onKey();
  }

  #set(name, value) {
    if (value === undefined) delete this.#values[name];
    else this.#values[name] = value;
    this.#save();
  }

  #save() {
    localStorage.setItem(STORED, JSON.stringify(this.#values));
  }
}

function element(tag, className) {
  return Object.assign(document.createElement(tag), { className });
}
