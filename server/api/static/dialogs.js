/** What opens over the page: a request as code, the history, a picture in full. */

import { copyText } from "/static/clipboard.js";
import { icon } from "/static/icons.js";
import { abridged, snippets } from "/static/snippets.js";
import { make } from "/static/view.js";

const $ = (id) => document.getElementById(id);

/** Let every dialog be closed by its cross and by a click beside it. */
export function openDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }
}

/** Show the code that makes a request again. */
export function showCode(body, needsKey) {
  const codes = snippets(body, location.origin, needsKey);
  const tabs = codes.map(([language, code], place) => {
    const tab = make("button", "tab", language);
    Object.assign(tab, { type: "button", id: `code-tab-${place}` });
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", "code-text");
    tab.addEventListener("click", () => choose(place));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) choose((place + step + codes.length) % codes.length, true);
    });
    return tab;
  });
  function choose(place, mustFocus = false) {
    tabs.forEach((tab, other) => {
      tab.setAttribute("aria-selected", String(other === place));
      tab.tabIndex = other === place ? 0 : -1;
    });
    if (mustFocus) tabs[place].focus();
    $("code-text").textContent = abridged(codes[place][1]);
    $("code-text").setAttribute("aria-label", `${codes[place][0]} code`);
    $("code-copy").onclick = async () => {
      const isCopied = await copyText(codes[place][1], $("code-text"));
      $("code-copy").textContent = isCopied ? "Copied" : "Selected: Ctrl-C copies";
      setTimeout(() => ($("code-copy").textContent = "Copy"), 1500);
    };
  }
  $("code-tabs").replaceChildren(...tabs);
  choose(0);
  $("code").showModal();
}

/** Show a picture as large as the window allows. */
export function showPicture(url) {
  Object.assign($("viewer-image"), { src: url, alt: "Picture drawn by the model, enlarged" });
  $("viewer").showModal();
}

/** List the conversations of the past; `actions` are open(conversation), remove(conversation), clear(). */
export function showHistory(conversations, actions) {
  const rows = conversations.map((conversation) => {
    const row = make("li", "");
    const open = make("button", "past-one");
    open.type = "button";
    open.append(make("span", "", conversation.title), make("time", "", new Date(conversation.savedAt).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })));
    open.addEventListener("click", () => {
      $("history").close();
      actions.open(conversation);
    });
    const remove = make("button", "quiet round");
    remove.type = "button";
    remove.setAttribute("aria-label", `Forget “${conversation.title}”`);
    remove.append(icon("bin"));
    remove.addEventListener("click", async () => {
      await actions.remove(conversation);
      row.remove();
      $("forget").hidden = !$("past").childElementCount;
    });
    row.append(open, remove);
    return row;
  });
  $("past").replaceChildren(...(rows.length ? rows : [make("li", "note", "Nothing yet.")]));
  $("forget").hidden = !rows.length;
  $("sure").hidden = true;
  $("forget").onclick = () => {
    $("forget").hidden = true;
    $("sure").hidden = false;
    $("keep").focus();
  };
  $("keep").onclick = () => {
    $("sure").hidden = true;
    $("forget").hidden = false;
    $("forget").focus();
  };
  $("forget-all").onclick = async () => {
    await actions.clear();
    $("history").close();
  };
  $("history").showModal();
}
