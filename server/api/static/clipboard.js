/** Copying, also where the browser keeps its clipboard from pages: over plain http beyond the reader's own machine. */

/**
 * Put `text` on the clipboard. Where that cannot be done, `shown`, the element that shows it, is left selected.
 * @returns {Promise<boolean>} whether it is there
 */
export async function copyText(text, shown) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // There is no clipboard here, or the reader has not allowed its use; the older way needs neither.
    return copySelected(text, shown);
  }
}

/** Copy as the reader would with a key, but the whole `text` where `shown` is a shortened one. */
function copySelected(text, shown) {
  const replace = (event) => {
    event.clipboardData.setData("text/plain", text);
    event.preventDefault();
  };
  getSelection().selectAllChildren(shown);
  document.addEventListener("copy", replace);
  try {
    return document.execCommand("copy");
  } finally {
    document.removeEventListener("copy", replace);
  }
}
