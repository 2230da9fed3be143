// --- the page ---
page.append(live, element("h1", {}, "DMA report"));
const when = data.first_unix_ns ? new Date(data.first_unix_ns / 1e6).toISOString().replace("T", " ").slice(0, 19) + " UTC, " : "";
page.append(element("p", { class: "soft" }, `${data.file}: ${when}${data.board}${data.release ? `, Oche ${data.release}` : ""}${data.boots > 1 ? `, boot ${data.boot} of ${data.boots}` : ""}, from ${seconds(data.start_ns)} to ${seconds(data.end_ns)} ${data.clock}`));
if (data.filter) page.append(element("p", { class: "note" }, `Only this is shown: ${data.filter}. ${counted(data.chosen_events, "event")} of ${many(data.events)}.`));

const cards = element("div", { class: "cards" });
page.append(cards);
sections.push(() => {
  const tile = (number, one, more) => [many(number), number === 1 ? one : more || one + "s"];
  const total = kind => sum(devices().map(device => incidents(device, kind)));
  const end = isWhole() ? data.end_ns - data.start_ns : (view.last - view.first) * data.bin_ns;
  const flushes = sum(flushesOf().map(row => sum(inView(row.flushes))));
  cards.replaceChildren(...[
    [span(end), isWhole() ? "traced" : "shown"], isPart() ? null : tile(data.chosen_events, "event"), tile(devices().length, "device"),
    tile(sum(devices().map(mapsOf)), "page mapped", "pages mapped"), [size(sum(devices().map(endOf))), "mapped at the end"], tile(flushes, "flush", "flushes"),
    [...tile(total(0), "fault"), total(0) ? "bad" : ""], [...tile(errorsShown(), "error found", "errors found"), errorsShown() ? "bad" : "good"],
    isPart() ? null : [...tile(data.missing, "event missing", "events missing"), data.missing ? "bad" : ""],
  ].filter(Boolean).map(([value, name, kind]) => element("div", { class: "figure " + (kind || "") }, element("b", {}, value), element("span", {}, name))));
});

// The time and the devices that are shown.
const tools = element("div", { class: "tools", role: "group", "aria-label": "Time and devices shown" });
page.append(tools);
function button(words, label, action) {
  const made = element("button", { type: "button", class: "action", "aria-label": label, title: label }, words);
  made.addEventListener("click", action);
  return made;
}
const ends = ["From", "To"].map(name => element("input", { type: "text", inputmode: "decimal", "aria-label": `${name}, in seconds ${data.clock}`, autocomplete: "off" }));
const status = element("span", { class: "soft", role: "status", "aria-live": "polite" });
function enter() {
  const [from, to] = ends.map(input => Number(input.value.replace(",", ".")) * 1e9);
  if (!(to > from)) { showEnds(); status.textContent = "The end must be after the beginning, both in seconds."; return; }
  setView(binOf(from), (to - data.start_ns) / data.bin_ns);
}
function showEnds() { [view.first, view.last].forEach((bin, index) => { ends[index].value = (binStart(bin) / 1e9).toFixed(6); }); }
for (const input of ends) {
  input.addEventListener("change", enter);
  input.addEventListener("keydown", event => { if (event.key === "Enter") enter(); });
}
const reset = button("Reset", "Show the whole time", resetView);
const overview = element("div", { class: "overview" });
tools.append(overview, element("div", { class: "row" }, element("label", {}, "From ", ends[0], " s "), element("label", {}, "to ", ends[1], " s"),
  button("+", "Zoom in", () => zoom(.5)), button("\u2212", "Zoom out", () => zoom(2)), button("\u2190", "Earlier", () => pan(-.5)), button("\u2192", "Later", () => pan(.5)), reset, status));
const chips = element("div", { class: "row", role: "group", "aria-label": "Devices shown" });
if (data.devices.length > 1) tools.append(chips);
const chipOf = new Map(shown.map(device => {
  const chip = element("button", { type: "button", "data-device": keyOf(device) }, swatch(paintOf.get(device)), device.name);
  chip.addEventListener("click", () => { if (!view.off.delete(keyOf(device))) view.off.add(keyOf(device)); render(); });
  chip.addEventListener("dblclick", () => { data.devices.forEach(other => view.off.add(keyOf(other))); view.off.delete(keyOf(device)); render(); });
  chips.append(chip);
  return [device, chip];
}));
const everyDevice = button("All", "Show all devices", () => { view.off.clear(); render(); });
const noDevice = button("None", "Show no device, then choose", () => { data.devices.forEach(device => view.off.add(keyOf(device))); render(); });
chips.append(everyDevice, noDevice);
sections.push(() => {
  showEnds();
  reset.disabled = isWhole();
  everyDevice.disabled = isAll();
  for (const [device, chip] of chipOf) chip.setAttribute("aria-pressed", String(isOn(device)));
  status.textContent = (isWhole() ? "whole time" : `${span((view.last - view.first) * data.bin_ns)} of ${span(data.end_ns - data.start_ns)}`) + (isAll() ? "" : `, ${devices().length} of ${counted(data.devices.length, "device")}`);
});
// All memory that is mapped, over the whole time, and which part of it is shown.
sections.push(() => {
  const height = 44, svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", role: "img" });
  const sums = Array.from({ length: data.bins }, (_, bin) => sum(pictured().map(device => device.mapped[bin])));
  const top = Math.max(1, ...sums), place = bin => WIDTH * bin / data.bins;
  svg.append(drawn("path", { d: `M0 ${height}` + sums.map((value, bin) => `L${place(bin).toFixed(1)} ${(height - (height - 4) * value / top).toFixed(1)}L${place(bin + 1).toFixed(1)} ${(height - (height - 4) * value / top).toFixed(1)}`).join("") + `L${WIDTH} ${height}Z`, fill: COLORS[0], "fill-opacity": .55 }));
  for (const finding of data.findings.filter(isOnPlace)) svg.append(drawn("rect", { x: Math.max(0, place(binOf(finding.time_ns)) - 1), y: 0, width: 2.5, height, fill: "var(--bad)" }));
  svg.append(drawn("rect", { class: "outside", x: 0, y: 0, width: place(view.first), height }), drawn("rect", { class: "outside", x: place(view.last), y: 0, width: WIDTH - place(view.last), height }));
  if (!isWhole()) svg.append(drawn("rect", { class: "brush", x: place(view.first), y: 0, width: place(view.last) - place(view.first), height }));
  zoomable(svg, "Overview of the whole time", fraction(svg, 0, 0), brush(svg, height, 0, 0), () => [0, data.bins], true);
  showTip(svg, event => `${seconds(binStart(binOf(data.start_ns + fraction(svg, 0, 0)(event) * data.bins * data.bin_ns)))}: drag to zoom, or use the wheel`);
  overview.replaceChildren(svg);
});

section("findings", "Findings", findings);
section("faults", "Faults", faults);
section("mapped", "Mapped memory", () => [about(`Memory that each device can reach: the most in each ${span(data.bin_ns * perColumn())}. Drag to zoom in time, or use Ctrl and the wheel; double-click to reset.`),
  stackedArea("Mapped memory", pictured().map(device => ({ name: device.name, paint: paintOf.get(device), values: columns(device.mapped, most) })), 230),
  legend(pictured().map(device => [device.name, paintOf.get(device), `DART ${device.dart} stream ${device.stream}`]))]);
section("devices", "Devices", deviceTable);
section("rates", "Map and flush rates", () => [about("Pages mapped a second, by device."),
  lines("Pages mapped a second", pictured().map(device => ({ name: device.name, paint: paintOf.get(device), values: columns(device.made, sum) })), 150, "pages/s"),
  element("p", { class: "soft", style: "margin:16px 0 6px" }, "Flushes a second, by DART. Each costs the guest a wait in its driver."),
  lines("Flushes a second", flushesOf().map(row => ({ name: row.name, paint: color(row.dart + 6), values: columns(row.flushes, sum) })), 110, "flushes/s"),
  legend(flushesOf().map(row => [row.name, color(row.dart + 6), `DART ${row.dart}`]))]);
section("space", "IOVA space", () => [about("Each device's IOVA space over time: a row is a range of addresses that was used, highest first, and unused ranges between rows are left out. Dark is mapped all the time, pale for a moment."),
  pictured().filter(device => device.space.length).map(spaceMap)]);
section("lifetimes", "Mapping lifetimes", () => {
  const all = pictured().map(histogram).filter(Boolean);
  return [about("Pages that were mapped and unmapped, by the time between; each bar is twice as long as the one before." + stepNote()),
    all.length ? element("div", { class: "columns" }, all) : empty("No page was unmapped in the time and by the devices shown.")];
});
section("sites", "Events by code", codeTable);
section("events", "Events around findings", events);
page.append(element("p", { class: "soft small", style: "margin-top:18px" }, `Made by oche ${data.version}. Everything on this page is inside it.`));

render();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
let closed = [];
addEventListener("beforeprint", () => { closed = [...page.querySelectorAll("details:not([open])")]; for (const one of closed) one.open = true; });
addEventListener("afterprint", () => { for (const one of closed) one.open = false; });
dispatchEvent(new Event("hashchange"));
document.body.dataset.ready = "yes";
