// --- what is shown: a range of bins, and devices ---
const keyOf = of => `${of.dart}:${of.stream}`;
const shown = data.devices.filter(device => device.mapped.length);
const paintOf = new Map(shown.map((device, index) => [device, color(index)]));
const view = { first: 0, last: data.bins, off: new Set() };
const COLUMNS = 240;
const sections = [];

const isWhole = () => view.first === 0 && view.last === data.bins;
const isAll = () => view.off.size === 0;
const binStart = bin => data.start_ns + bin * data.bin_ns;
const binOf = ns => Math.max(0, Math.min(data.bins - 1, Math.floor((ns - data.start_ns) / data.bin_ns)));
const inTime = ns => isWhole() || (binOf(ns) >= view.first && binOf(ns) < view.last);
const isOn = of => !view.off.has(keyOf(of));
// What is about a DART and no stream is shown with any of its devices.
const dartIsOn = dart => isAll() || data.devices.some(device => device.dart === dart && isOn(device));
const isOnPlace = of => of.dart === null ? isAll() : of.stream === null ? dartIsOn(of.dart) : isOn(of);
const isShown = of => inTime(of.time_ns) && isOnPlace(of);
const devices = () => data.devices.filter(isOn);
const pictured = () => shown.filter(isOn);
// Steps are wider than bins: those that the view touches.
const inSteps = step => (step + 1) * data.steps > view.first && step * data.steps < view.last;
const stepNote = () => isWhole() ? "" : ` Counted in steps of ${span(data.bin_ns * data.steps)}.`;

// The view's bins, as columns of a chart: `merge` puts the values of several bins together.
function columns(values, merge) {
  const per = Math.ceil((view.last - view.first) / COLUMNS), merged = [];
  for (let bin = view.first; bin < view.last; bin += per) merged.push(merge(values.slice(bin, Math.min(bin + per, view.last))));
  return merged;
}
const perColumn = () => Math.ceil((view.last - view.first) / COLUMNS);
const most = values => Math.max(...values);
const inView = values => values.slice(view.first, view.last);

function section(id, title, render) {
  const body = element("div");
  const made = element("section", { id, "aria-labelledby": `${id}-title` }, element("h2", { id: `${id}-title` }, title), body);
  page.append(made);
  sections.push(() => {
    const content = render();
    made.hidden = content === null;
    body.replaceChildren(...[content].flat(3).filter(child => child !== null && child !== undefined));
  });
}
const about = words => element("p", { class: "soft" }, prose(words));

function setView(first, last) {
  first = Math.max(0, Math.min(data.bins - 1, Math.round(first)));
  last = Math.max(first + 1, Math.min(data.bins, Math.round(last)));
  if (first === view.first && last === view.last) return;
  [view.first, view.last] = [first, last];
  render();
}
const resetView = () => setView(0, data.bins);
// Zooms by `factor` around `place`, from 0 at the left to 1.
function zoom(factor, place = .5) {
  const width = view.last - view.first;
  const wanted = Math.max(1, Math.min(data.bins, factor < 1 ? Math.floor(width * factor) : Math.ceil(width * factor + .5)));
  const first = Math.max(0, Math.min(data.bins - wanted, view.first + (width - wanted) * place));
  setView(Math.round(first), Math.round(first) + wanted);
}
function pan(part) {
  const width = view.last - view.first, by = Math.sign(part) * Math.max(1, Math.round(Math.abs(part) * width));
  const first = Math.max(0, Math.min(data.bins - width, view.first + by));
  setView(first, first + width);
}
function keys(event) {
  const actions = { "+": () => zoom(.5), "=": () => zoom(.5), "-": () => zoom(2), ArrowLeft: () => pan(-.25), ArrowRight: () => pan(.25), 0: resetView, Escape: resetView };
  const action = actions[event.key];
  if (!action || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  action();
}

// Lets a chart zoom: drag to choose a range, the wheel with Ctrl (or alone, where `wheel` is set), keys.
// `at` gives the fraction of the range `[first, last)` under the pointer; `mark` draws the choice.
function zoomable(target, name, at, mark, range, wheel) {
  const describe = "Drag to zoom in time; keys + and - zoom, arrows move, 0 resets.";
  for (const [key, value] of Object.entries({ tabindex: "0", "aria-label": `${name}. ${describe}`, "data-zoomable": "" })) target.setAttribute(key, value);
  target.classList.add("zoomable");
  let begun = null;
  target.addEventListener("pointerdown", event => {
    if (event.button !== 0) return;
    begun = at(event);
    target.setPointerCapture(event.pointerId);
  });
  target.addEventListener("pointermove", event => { if (begun !== null) mark(Math.min(begun, at(event)), Math.max(begun, at(event))); });
  const end = event => {
    if (begun === null) return;
    const [from, to] = [Math.min(begun, at(event)), Math.max(begun, at(event))], [first, last] = range();
    begun = null;
    mark(null);
    // Less than that is a click.
    if (event.type === "pointerup" && to - from > .008) setView(Math.floor(first + from * (last - first)), Math.ceil(first + to * (last - first)));
  };
  target.addEventListener("pointerup", end);
  target.addEventListener("pointercancel", end);
  target.addEventListener("dblclick", resetView);
  target.addEventListener("keydown", keys);
  target.addEventListener("wheel", event => {
    if (!wheel && !event.ctrlKey) return;
    event.preventDefault();
    const [first, last] = range(), bin = first + at(event) * (last - first);
    zoom(event.deltaY < 0 ? 2 / 3 : 3 / 2, Math.max(0, Math.min(1, (bin - view.first) / (view.last - view.first))));
  }, { passive: false });
}

// Rendering replaces the chart that has the focus: its successor takes it over.
function render() {
  const focus = document.activeElement, label = focus && focus.getAttribute("aria-label");
  tip.style.display = "none";
  for (const one of sections) one();
  if (focus && !focus.isConnected && label)
    [...page.querySelectorAll("[data-zoomable]")].find(one => one.getAttribute("aria-label") === label)?.focus({ preventScroll: true });
  document.body.dataset.view = `${view.first}-${view.last}`;
}
