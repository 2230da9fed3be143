// --- findings, events and tables ---
const HINTS = ["never-used", "shared-page"];
const errors = sum(Object.entries(data.totals).filter(([name]) => !HINTS.includes(name)).map(([, number]) => number));
const listed = findings => sum(findings.map(finding => 1 + finding.more));
const isPart = () => !isWhole() || !isAll();
const errorsShown = () => isPart() ? listed(data.findings.filter(isShown)) : errors;
// Incidents in view, by kind: faults, red zones, refused mappings.
const incidents = (device, kind) => sum(device.incidents.filter(([bin]) => bin >= view.first && bin < view.last).map(row => row[1 + kind]));
const mapsOf = device => isWhole() || !device.made.length ? device.maps : sum(inView(device.made));
const peakOf = device => isWhole() || !device.mapped.length ? device.peak_bytes : most(inView(device.mapped));
const endOf = device => view.last === data.bins || !device.mapped.length ? device.end_bytes : device.mapped[view.last - 1];
const flushesOf = () => data.flushes.filter(row => dartIsOn(row.dart));

// The event, whatever the view leaves out, is shown.
function showEvent(number) {
  const event = data.around[number];
  if (!event) return;
  if (!isShown(event)) {
    view.off.clear();
    [view.first, view.last] = [0, data.bins];
    render();
  }
  const row = document.getElementById(`event-${number}`);
  if (!row) return;
  for (let above = row.parentElement; above; above = above.parentElement) if (above.tagName === "DETAILS") above.open = true;
  for (const other of page.querySelectorAll("tr.target")) other.classList.remove("target");
  row.classList.add("target");
  row.scrollIntoView({ block: "center" });
  row.focus({ preventScroll: true });
}
function eventLink(number, words) {
  const link = element("a", { href: `#event-${number}` }, words);
  link.addEventListener("click", () => setTimeout(() => showEvent(number)));
  return link;
}
addEventListener("hashchange", () => { const found = /^#event-(\d+)$/.exec(location.hash); if (found) showEvent(Number(found[1])); });

const findingBlock = (finding, number) => element("div", { class: "finding", id: `finding-${number}` },
  element("div", {}, element("span", { class: "tag" }, finding.detector), `${finding.device}, DART ${finding.dart} stream ${finding.stream}, at ${moment(finding.time_ns)}`),
  element("p", {}, finding.message + (finding.more ? ` Another ${finding.more === 1 ? "access" : many(finding.more) + " accesses"} to the same page followed.` : "")),
  finding.event === null ? null : element("div", { class: "links" }, eventLink(finding.event, `Show it among the ${many(finding.around.length)} events around it`)),
  command(finding.command));

function findings() {
  const all = data.findings.map((finding, number) => [finding, number]).filter(([finding]) => isShown(finding));
  const nodes = [about("What `oche trace check` finds: DMA errors that the guest may not have reported.")];
  if (!errors) nodes.push(element("div", { class: "fine" }, `Nothing was found in ${counted(data.events, "event")}.`));
  else if (!all.length) nodes.push(empty("No finding in the time and of the devices shown."));
  nodes.push(folded(all.map(([finding, number]) => findingBlock(finding, number)), "findings"));
  if (errors > listed(data.findings)) nodes.push(element("p", { class: "note" }, `${counted(errors, "error")} in all; of each kind and device the first 20 findings are reported.`));
  for (const [name, one, more] of [["shared-page", "mapping shared a page with another one, as buffers smaller than a page do", "mappings shared a page with another one, as buffers smaller than a page do"],
    ["never-used", "page was mapped for a device to write and no byte of it had changed at the unmap", "pages were mapped for a device to write and no byte of them had changed at the unmap"]])
    if (data.totals[name]) nodes.push(element("p", { class: "note" }, prose(`${counted(data.totals[name], one, more)}. Correct drivers cause that too (\`oche trace check --hints\`).`)));
  for (const warning of data.warnings) nodes.push(element("p", { class: "note" }, "The file: " + warning + "."));
  return nodes;
}

function faults() {
  if (!data.faults.length) return null;
  const all = data.faults.filter(isShown);
  const block = fault => element("div", { class: "finding" },
    element("div", {}, element("span", { class: "tag" }, fault.what), element("code", {}, fault.iova), ` ${fault.device}, DART ${fault.dart} stream ${fault.stream}, at ${moment(fault.time_ns)}`),
    fault.accesses > 1 ? element("p", {}, `${many(fault.accesses)} in this page, the last at `, element("code", {}, fault.last_iova), `, ${span(fault.last_ns - fault.time_ns)} later.`) : null,
    fault.before.length ? element("pre", { class: "events" }, fault.before.map(number => {
      const event = data.around[number];
      return element("div", {}, eventLink(number, moment(event.time_ns)), ` CPU ${event.cpu} ${event.kind}: ${event.text}${event.code ? ` by ${event.code}` : ""}`);
    })) : element("p", { class: "soft" }, "No event about this page is among the last ones kept."),
    fault.event === null ? null : element("div", { class: "links" }, eventLink(fault.event, "Show it among the events around it")),
    command(fault.command));
  const nodes = [about("Accesses that hardware refused, writes into red zones, mappings that Oche refused, and the last events at the same page before, oldest first.")];
  if (!all.length) nodes.push(empty("None in the time and of the devices shown."));
  nodes.push(folded(all.map(block), "of them"));
  if (data.faults_in_all > data.faults_told) nodes.push(element("p", { class: "note" }, `The first ${many(data.faults_told)} of ${many(data.faults_in_all)}.`));
  return nodes;
}

const EVENTS_OPEN = 60;
function events() {
  if (!data.around.length) return null;
  const findingOf = new Map(data.findings.map((finding, number) => [finding.event, number]));
  const rows = data.around.map((event, number) => [event, number]).filter(([event]) => isShown(event)).map(([event, number]) =>
    element("tr", { id: `event-${number}`, tabindex: "-1" }, cell(moment(event.time_ns)), cell(`${event.cpu}`, "number"), cell(event.kind),
      cell(event.text, "mono wide"), cell(event.code || "", "mono"), cell(findingOf.has(number) ? element("a", { href: `#finding-${findingOf.get(number)}` }, data.findings[findingOf.get(number)].detector) : "")));
  const heads = [["Time"], ["CPU", "number"], ["Event"], ["Fields"], ["Code"], ["Finding"]];
  const nodes = [about(`Events around the first ${data.max_subjects} findings and faults: those at the same page before, and those of the device just before and after. \`oche trace text\` prints all events.`)];
  if (!rows.length) nodes.push(empty("None in the time and of the devices shown."));
  else nodes.push(table(heads, rows.slice(0, EVENTS_OPEN), "Events around findings"));
  if (rows.length > EVENTS_OPEN) nodes.push(element("details", {}, element("summary", {}, `${many(rows.length - EVENTS_OPEN)} more events`), table(heads, rows.slice(EVENTS_OPEN), "More events around findings")));
  return nodes;
}

function deviceTable() {
  const row = device => {
    const total = sum(device.placements) || 1, share = index => (100 * device.placements[index] / total).toFixed(0);
    const words = PLACEMENTS.map(([name], index) => `${name} ${share(index)} %`).join(", ");
    const stack = element("div", { class: "stack", title: words, role: "img", "aria-label": words },
      PLACEMENTS.map(([, paint], index) => element("div", { style: `width:${100 * device.placements[index] / total}%;background:${paint}` })));
    const paint = paintOf.get(device), bad = kind => { const number = incidents(device, kind); return cell(many(number), "number" + (number ? " bad" : "")); };
    return element("tr", {}, cell([paint ? swatch(paint) : null, device.name]), cell(`${device.dart}:${device.stream}`), cell(many(mapsOf(device)), "number"),
      cell(size(peakOf(device)), "number"), cell(size(endOf(device)), "number"), cell(stack), bad(0), bad(1), bad(2));
  };
  return [about("Pages by placement: direct pages stay where they are, migrated ones were moved into a frame with their neighbours, bounce pages are copies of a page mapped more than once." + (isWhole() ? "" : " Placement is that of the whole trace.")),
    table([["Device"], ["DART:stream"], ["Pages mapped", "number"], ["Peak", "number"], ["At the end", "number"], ["Placement"], ["Faults", "number"], ["Red zones", "number"], ["Refused", "number"]], devices().map(row), "Devices"),
    legend(PLACEMENTS)];
}

function codeTable() {
  const by = new Map();
  for (const site of data.sites.filter(isOnPlace)) {
    const counts = by.get(site.code) || [0, 0, 0, 0, 0];
    for (const [step, ...numbers] of site.counts) if (inSteps(step)) numbers.forEach((number, kind) => { counts[kind] += number; });
    by.set(site.code, counts);
  }
  const all = [...by].map(([code, counts]) => ({ code, counts, events: sum(counts) })).filter(site => site.events).sort((a, b) => b.events - a.events);
  const total = isPart() ? sum(all.map(site => site.events)) : data.sites_events;
  const row = site => {
    const share = 100 * site.events / (total || 1);
    return element("tr", {}, cell(site.code, "mono"), cell(many(site.events), "number"),
      cell(element("div", { class: "stack", role: "img", "aria-label": `${share.toFixed(1)} %` }, element("div", { style: `width:${share}%;background:${COLORS[0]}` }))),
      site.counts.map(number => cell(many(number), "number")));
  };
  return [about("Guest code by the events that it caused. A DART driver's register writes and flushes are where most come from" + (data.has_symbols ? "." : "; pass `--symbols` to see names.") + stepNote()),
    all.length ? table([["Code"], ["Events", "number"], ["Share"], ["Maps", "number"], ["Unmaps", "number"], ["Flushes", "number"], ["Registers", "number"], ["Other", "number"]], all.map(row), "Events by code") : empty("None in the time and of the devices shown."),
    data.more_sites ? element("p", { class: "note" }, `And ${counted(data.more_sites, "more place")} in the whole trace.`) : null];
}
