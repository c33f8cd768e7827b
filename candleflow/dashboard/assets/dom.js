// What the page's scripts share. Text is only ever set as text: nothing of the data becomes HTML.

export const SVG = "http://www.w3.org/2000/svg";

export function made(parent, name, className, text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  parent.append(element);
  return element;
}

// A node that is left alone keeps what is selected in it.
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A time in milliseconds as `2024-08-08 12:34:56`, UTC.
export const clock = (time) => new Date(time).toISOString().slice(0, 19).replace("T", " ");

export const fixed = (value, places) =>
  value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });

// What Python's LiveComponent.draw has sent.
export const decoded = (data) => JSON.parse(new TextDecoder().decode(data));
