// Helpers of the page's scripts. Text is only set as text content, so no data ever becomes HTML.

export const SVG = "http://www.w3.org/2000/svg";

// Creates an element in `parent` and returns it.
export function made(parent, name, className, text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  parent.append(element);
  return element;
}

// Sets a node's text only if it differs: an unchanged node keeps the viewer's text selection.
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Formats a time in milliseconds as `2024-08-08 12:34:56`, UTC.
export const clock = (time) => new Date(time).toISOString().slice(0, 19).replace("T", " ");

export const fixed = (value, places) =>
  value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });

// Decodes the bytes that Python's LiveComponent.draw sends.
export const decoded = (data) => JSON.parse(new TextDecoder().decode(data));
