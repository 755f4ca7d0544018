/** Pictures on their way in: chosen, dropped or pasted. They are read here and never leave but in a request; what is huge, or of a kind
 * that this browser reads and the server does not (moving pictures too), is drawn anew. */

const SENT_AS_THEY_ARE = ["image/png", "image/jpeg", "image/webp"];
const MAX_SIDE = 2048;
const KEPT_BYTES = 4 << 20;

/** Return a data URI of a picture file. Throws an Error that says what is wrong with it. */
export async function readPicture(file) {
  if (!file.type.startsWith("image/")) throw new Error(`${file.name || "That"} is no picture.`);
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name || "That picture"} cannot be read.`);
  });
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && file.size <= KEPT_BYTES && SENT_AS_THEY_ARE.includes(file.type)) return dataUri(file);
  const canvas = new OffscreenCanvas(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // what the server puts behind transparent pixels
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return dataUri(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 }));
}

/** Return the files of a paste that could be pictures: words from an editor may come with files of other kinds. */
export function filesOf(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}

/** Return a data URI of a picture of the conversation, whose address may be one of the server's. */
export async function asDataUri(url, key) {
  if (url.startsWith("data:")) return url;
  const response = await fetch(url, { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  return dataUri(await response.blob());
}

function dataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
