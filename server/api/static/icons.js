/** The page's few icons, drawn as strokes in the colour of the text. */

const PATHS = {
  plus: "M12 5v14M5 12h14",
  clock: "M12 7v5l3 2M12 3a9 9 0 1 1-9 9c0-3 1.500-5.700 3.800-7.300M3 4v4h4",
  sliders: "M4 7h9m5 0h2M4 17h3m5 0h8M15.500 4.500a2.500 2.500 0 1 0 0 5 2.500 2.500 0 0 0 0-5zM9.500 14.500a2.500 2.500 0 1 0 0 5 2.500 2.500 0 0 0 0-5z",
  picture: "M4 5h16v14H4zM4 16l4.500-4.500 4 4 3-3L20 17M15.500 9.500h.01",
  up: "M12 19V5m-6 6 6-6 6 6",
  stop: "M7 7h10v10H7z",
  cross: "M6 6l12 12M18 6L6 18",
  pencil: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  save: "M12 4v11m-5-4 5 5 5-5M5 20h14",
  grow: "M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7",
  again: "M20 11a8 8 0 1 0-2.300 5.700M20 5v6h-6",
  code: "M8 7l-5 5 5 5M16 7l5 5-5 5",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  bin: "M5 7h14M10 4h4M7 7l1 13h8l1-13",
};

/** @returns {SVGElement} the icon called `name`, hidden from screen readers */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(svg.namespaceURI, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** Draw every icon that the page's HTML names. */
export function drawIcons(root) {
  for (const place of root.querySelectorAll("[data-icon]")) place.replaceChildren(icon(place.dataset.icon));
}
