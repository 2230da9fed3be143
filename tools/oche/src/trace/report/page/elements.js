// --- words and elements ---
const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const COLORS = ["#2f7f9d", "#d0803a", "#5d9b57", "#9a62a8", "#c25466", "#7d7f3b", "#4f6fc4", "#b0853f", "#3f9a8c", "#8b6a5b"];
const color = index => COLORS[index % COLORS.length];
const PLACEMENTS = [["direct", "#5d9b57"], ["migrated", "#2f7f9d"], ["bounce", "#d0803a"]];
const SVG = "http://www.w3.org/2000/svg";

const many = number => number.toString().replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
function size(bytes) {
  for (const [unit, name] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]])
    if (bytes >= unit) { const value = bytes / unit; return (value >= 100 || value % 1 === 0 ? value.toFixed(0) : value.toFixed(1)) + "\u202f" + name; }
  return bytes + "\u202fB";
}
function span(ns) {
  for (const [unit, name] of [[1e9, "s"], [1e6, "ms"], [1e3, "\u00b5s"]])
    if (ns >= unit) { const value = ns / unit; return (value < 9.995 ? value.toFixed(2) : value < 99.95 ? value.toFixed(1) : value.toFixed(0)) + "\u202f" + name; }
  return Math.round(ns) + "\u202fns";
}
const counted = (count, one, more) => many(count) + " " + (count === 1 ? one : more || one + "s");
const seconds = ns => (ns / 1e9).toFixed(3) + "\u202fs";
// A script's numbers hold nanoseconds since 1970 to a quarter of a microsecond.
const moment = ns => (ns / 1e9).toFixed(data.end_ns > Number.MAX_SAFE_INTEGER ? 6 : 9) + "\u202fs";
const rate = value => value === 0 ? "0" : value >= 100 ? many(Math.round(value)) : value >= 10 ? value.toFixed(0) : value.toFixed(1);
const sum = values => values.reduce((total, value) => total + value, 0);

// Text is always text, whatever a trace holds: names of devices and functions are a guest's.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children.flat(3).filter(child => child !== null && child !== undefined));
  return made;
}
function drawn(name, attributes = {}, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
// Of words with commands between backquotes.
const prose = words => words.split("`").map((part, index) => index % 2 ? element("code", {}, part) : part);
const cell = (content, kind) => element("td", { class: kind || null }, content);
function table(heads, rows, caption) {
  const head = element("tr", {}, heads.map(([title, kind]) => element("th", { class: kind || null, scope: "col" }, title)));
  const hidden = element("caption", {}, element("span", { class: "hidden" }, caption));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    element("table", {}, hidden, element("thead", {}, head), element("tbody", {}, rows)));
}
const swatch = paint => element("span", { class: "swatch", style: `background:${paint}`, "aria-hidden": "true" });
// The first few, and the others at a click.
const OPEN = 5;
const folded = (blocks, what) => [blocks.slice(0, OPEN), blocks.length > OPEN
  ? element("details", {}, element("summary", {}, `${many(blocks.length - OPEN)} more ${what}`), blocks.slice(OPEN)) : null];
const legend = entries => element("div", { class: "legend" }, entries.map(([name, paint, extra]) =>
  element("span", {}, swatch(paint), name, extra ? element("span", { class: "soft" }, " " + extra) : null)));
const empty = what => element("p", { class: "empty" }, what);

const tip = document.getElementById("tip");
function showTip(target, text) {
  target.addEventListener("mousemove", event => {
    const words = text(event);
    tip.style.display = words ? "block" : "none";
    tip.textContent = words || "";
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = event.clientY + 16 + "px";
  });
  target.addEventListener("mouseleave", () => { tip.style.display = "none"; });
}

// A command with a button that copies it; a page from a file may lack the clipboard.
const live = element("div", { class: "hidden", role: "status", "aria-live": "polite" });
function command(text) {
  const code = element("code", {}, text);
  const button = element("button", { type: "button", "aria-label": `Copy command: ${text}` }, "Copy");
  button.addEventListener("click", async () => {
    let copied = true;
    try { await navigator.clipboard.writeText(text); } catch {
      getSelection().selectAllChildren(code);
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Selected";
    live.textContent = copied ? "Command copied" : "Command selected: copy it with the keyboard";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return element("div", { class: "command" }, code, button);
}
