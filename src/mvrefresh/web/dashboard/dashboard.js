// The dashboard. Whatever comes out of a database is set as text, never as markup.
const root = document.documentElement;
const at = (id) => document.getElementById(id);
const urls = { data: root.dataset.data, events: root.dataset.events, refresh: root.dataset.refresh };
const readOnly = root.dataset.readOnly === "true";
const SVG = "http://www.w3.org/2000/svg";

const state = { data: null, clock: 0, chosen: null, busy: new Set(), cursor: null };

// -- words ---------------------------------------------------------------------------------------

const FRESHNESS = {
  fresh: "Fresh", late: "Late", stale: "Stale", suspended: "Suspended",
  unpopulated: "Not populated", unscheduled: "Not scheduled", unknown: "Age unknown",
};
const now = () => Date.now() / 1000 + state.clock;

function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}
const ago = (moment) => (moment == null ? "never" : `${span(now() - moment)} ago`);
function ahead(moment) {
  if (moment == null) return "–";
  return moment > now() ? `in ${span(moment - now())}` : `due for ${span(now() - moment)}`;
}
function took(ms) {
  if (ms == null) return "–";
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  return ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : `${(ms / 60000).toFixed(1)} min`;
}
function size(bytes) {
  if (bytes == null) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1024 && unit < 4) { bytes /= 1024; unit += 1; }
  return `${bytes < 10 && unit ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}
const clock = (moment) => new Date(moment * 1000).toLocaleTimeString([], { hour12: false });
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

function age(view) {
  return view.content_as_of == null || !view.populated ? null : Math.max(0, now() - view.content_as_of);
}
function freshness(view) {
  const old = age(view);
  if (!["fresh", "late", "stale"].includes(view.freshness) || old == null) return view.freshness;
  if (old <= 1.5 * view.interval_seconds) return "fresh";
  return old <= 3 * view.interval_seconds ? "late" : "stale";
}

// -- elements ------------------------------------------------------------------------------------

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
  return node;
}
function make(tag, attributes = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value != null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...inside);
  return node;
}
function draw(tag, attributes = {}, ...inside) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...inside);
  return node;
}
const say = (text) => set(at("said"), text);
const problems = {}; // of reading, and of the last refresh: each stands until that is done again
function problem(of, text) {
  problems[of] = text;
  const all = Object.values(problems).filter(Boolean).join(" ");
  at("problem").hidden = !all;
  set(at("problem"), all);
}
// Names break after _ and . and nowhere else, unless one of their words is wider than its place.
function setWords(node, text) {
  if (node.textContent === text) return node;
  node.replaceChildren(...text.split(/(?<=_)(?=.)|(?<=\.)(?=[\p{L}"])/u).flatMap((word, index) => (index ? [make("wbr"), word] : [word])));
  return node;
}
// As much of a text in the graph as there is room for; it has to be in the document.
function fit(node, text, room) {
  const letters = [...text];
  let length = set(node, text).getComputedTextLength();
  while (length > room && letters.length) {
    letters.length -= Math.max(1, Math.floor((letters.length * (length - room)) / length));
    length = set(node, `${letters.join("")}…`).getComputedTextLength();
  }
}

// -- figures -------------------------------------------------------------------------------------

let loading = null;
let again = false;
async function load() {
  if (loading) { again = true; return loading; }
  loading = (async () => {
    try {
      const answer = await fetch(urls.data, { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error((await reason(answer)) || `The server answers ${answer.status}.`);
      state.data = await answer.json();
      state.clock = state.data.at - Date.now() / 1000;
      problem("reading", null);
      show();
    } catch (error) {
      problem("reading", `The figures cannot be read: ${error.message}`);
    }
  })();
  await loading;
  loading = null;
  if (again) { again = false; load(); }
}
async function reason(answer) {
  try {
    const { detail } = await answer.json();
    return typeof detail === "string" ? detail : null;
  } catch { return null; }
}
let soon = 0;
function loadSoon() {
  clearTimeout(soon);
  soon = setTimeout(load, 120);
}

function show() {
  const { data } = state;
  const fleet = data.fleet ? `, ${plural(data.fleet.length, "process")}`.replace("processs", "processes") : "";
  set(at("where"), `${data.database}${data.standby ? ", a standby" : ""}${fleet}`);
  const names = data.views.map((view) => view.view);
  if (!names.includes(state.chosen)) {
    const runs = (name) => data.history[name]?.length ?? 0;
    state.chosen = [...names].sort((a, b) => runs(b) - runs(a))[0] ?? null;
  }
  showRows();
  showGraph();
  showChoice(names);
  showTiers();
  tick();
  at("refresh-all").hidden = readOnly || names.length === 0;
}

function showStrip(views) {
  const fresh = views.filter((view) => freshness(view) === "fresh").length;
  const bad = views.filter((view) => view.status === "failed" || ["stale", "suspended", "unpopulated"].includes(freshness(view))).length;
  const runs = Object.values(state.data.history).flat().filter((run) => run.success != null);
  const good = runs.filter((run) => run.success).length;
  const next = views.filter((view) => view.next_run != null).sort((a, b) => a.next_run - b.next_run)[0];
  const running = views.filter((view) => view.running_since != null).length;
  const figures = [
    ["Fresh", String(fresh), `of ${plural(views.length, "view")}`],
    ["Need a look", String(bad), "stale or failing"],
    ["Succeeded", runs.length ? `${Math.floor((1000 * good) / runs.length) / 10} %` : "–", `of ${plural(runs.length, "run")}`],
    ["Running", String(running), running ? "now" : ""],
    ["Next run", next ? ahead(next.next_run).replace(/^in /, "") : "–", next ? next.view : ""],
  ];
  const strip = at("strip");
  while (strip.children.length < figures.length) strip.append(make("div", {}, make("dt"), make("dd", {}, make("span"), " ", make("small"))));
  figures.forEach(([title, figure, more], index) => {
    const box = strip.children[index];
    set(box.querySelector("dt"), title);
    set(box.querySelector("span"), figure);
    setWords(box.querySelector("small"), more);
  });
}

// -- table ---------------------------------------------------------------------------------------

const rows = new Map();
// Roles are given by name: laid out as a list on a phone, a table would lose its own.
function newRow(name) {
  const part = (label, ...inside) => make("td", { role: "cell", "data-label": label }, make("div", {}, ...inside));
  const parts = {
    name: make("button", { type: "button" }), tables: make("small"),
    tag: make("span", { class: "tag" }), age: make("small"),
    last: make("span"), status: make("small", { class: "run" }),
    next: make("span"), schedule: make("small", { class: "run" }),
    method: make("span"), why: make("small"), error: make("small", { class: "error" }),
    took: make("span"), size: make("span"),
  };
  setWords(parts.name, name);
  parts.name.addEventListener("click", () => choose(name));
  const why = part("Method", parts.method, parts.why, parts.error);
  why.classList.add("why");
  const number = (label, inside) => { const cell = part(label, inside); cell.classList.add("number"); return cell; };
  parts.row = make("tr", { role: "row" }, make("th", { role: "rowheader", scope: "row" }, parts.name, parts.tables),
    part("Content", parts.tag, parts.age), part("Last run", parts.last, parts.status),
    part("Next run", parts.next, parts.schedule), why, number("Took", parts.took), number("Size", parts.size));
  if (!readOnly) {
    parts.one = make("button", { type: "button", "aria-label": `Refresh ${name}` }, "Refresh");
    parts.all = make("button", { type: "button", "aria-label": `Refresh ${name} and its dependants` }, "+ dependants");
    parts.one.addEventListener("click", () => refresh([name], name));
    parts.all.addEventListener("click", () => refresh([name, ...dependants(name)], `${name} and its dependants`));
    parts.row.append(make("td", { role: "cell", class: "do" }, parts.one, parts.all));
  }
  return parts;
}
function showRows() {
  const { views } = state.data;
  const wanted = new Set(views.map((view) => view.view));
  for (const [name, parts] of rows) if (!wanted.has(name)) { parts.row.remove(); rows.delete(name); }
  views.forEach((view, index) => {
    if (!rows.has(view.view)) rows.set(view.view, newRow(view.view));
    const { row } = rows.get(view.view);
    if (at("rows").children[index] !== row) at("rows").insertBefore(row, at("rows").children[index] ?? null);
  });
  filter();
}
function updateRow(view) {
  const parts = rows.get(view.view);
  const kind = freshness(view);
  const old = age(view);
  parts.row.classList.toggle("chosen", view.view === state.chosen);
  parts.name.setAttribute("aria-pressed", String(view.view === state.chosen));
  setWords(parts.tables, view.reads.length ? `reads ${view.reads.join(", ")}` : "");
  parts.tag.dataset.fresh = kind;
  set(parts.tag, view.running_since != null ? "Refreshing" : FRESHNESS[kind] ?? kind);
  set(parts.age, view.running_since != null ? `for ${span(now() - view.running_since)}` : old == null ? "" : `${span(old)} old`);
  set(parts.last, ago(view.last_run));
  set(parts.status, [view.status?.replace("_", ", "), view.trigger && `by ${view.trigger}`].filter(Boolean).join(", "));
  parts.status.classList.toggle("error", view.status === "failed");
  set(parts.next, view.suspended_because ? "suspended" : ahead(view.next_run));
  set(parts.schedule, view.schedule ?? "");
  set(parts.method, view.strategy ?? "–");
  setWords(parts.why, view.reason ?? (view.obstacle ? `cannot be concurrent: ${view.obstacle}` : ""));
  setWords(parts.error, view.status === "failed" ? view.error ?? "" : "");
  set(parts.took, took(view.duration_ms));
  set(parts.size, size(view.size_bytes));
  if (parts.one) {
    const busy = state.busy.has(view.view);
    parts.one.disabled = busy;
    parts.all.disabled = busy;
    parts.all.hidden = dependants(view.view).length === 0;
  }
}
function filter() {
  const wanted = at("filter").value.trim().toLowerCase();
  let shown = 0;
  for (const [name, { row }] of rows) {
    row.hidden = !name.toLowerCase().includes(wanted);
    if (!row.hidden) shown += 1;
  }
  at("empty").hidden = shown > 0;
  set(at("empty"), rows.size ? "No view has such a name." : "There are no materialized views in this database.");
}

// -- graph ---------------------------------------------------------------------------------------

function dependants(name) {
  const found = [];
  for (const view of state.data.views) {
    if (view.reads.some((read) => read === name || found.includes(read))) found.push(view.view);
  }
  return found;
}
const BOX = { width: 190, widest: 250, height: 52, gapX: 64, gapY: 16, left: 18, right: 10 };
const nodes = new Map();
let drawn = "";
function showGraph() {
  const { views } = state.data;
  const narrow = matchMedia("(max-width: 760px)").matches;
  const shape = JSON.stringify([narrow, views.map((view) => [view.view, view.reads])]);
  if (shape === drawn) return;
  drawn = shape;
  nodes.clear();
  const svg = at("graph");
  const ruler = draw("text", { class: "name" });
  svg.replaceChildren(draw("g", { class: "node" }, ruler));
  const longest = Math.max(0, ...views.map((view) => set(ruler, view.view).getComputedTextLength()));
  const boxWidth = Math.min(BOX.widest, Math.max(BOX.width, Math.ceil(longest) + BOX.left + BOX.right));
  const level = new Map();
  for (const view of views) {
    level.set(view.view, Math.max(-1, ...view.reads.map((read) => level.get(read) ?? -1)) + 1);
  }
  const columns = [];
  const ways = []; // of the edges: the names of what they touch; a level in between has a gap for it
  for (const view of views) (columns[level.get(view.view)] ??= []).push(view);
  for (const view of views) {
    for (const read of view.reads.filter((name) => level.has(name))) {
      const way = [read];
      for (let between = level.get(read) + 1; between < level.get(view.view); between += 1) {
        const gap = `${read}\0${view.view}\0${between}`;
        columns[between].push({ view: gap, reads: [way.at(-1)] });
        way.push(gap);
      }
      ways.push([...way, view.view]);
    }
  }
  // A view stands near what it reads: by the mean place of that.
  const place = new Map();
  for (const column of columns) {
    const mean = (view) => view.reads.reduce((sum, read) => sum + (place.get(read) ?? 0), 0) / (view.reads.length || 1);
    column.sort((a, b) => mean(a) - mean(b));
    column.forEach((view, index) => place.set(view.view, index));
  }
  const tallest = Math.max(1, ...columns.map((column) => column.length));
  const [stepX, stepY] = narrow ? [boxWidth + 16, BOX.height + 40] : [boxWidth + BOX.gapX, BOX.height + BOX.gapY];
  const where = new Map();
  columns.forEach((column, depth) => {
    const shift = (tallest - column.length) / 2;
    column.forEach((view, index) => {
      const along = narrow ? index : depth;
      const across = narrow ? depth : index + shift;
      where.set(view.view, { x: 2 + along * stepX, y: 2 + across * stepY });
    });
  });
  const width = 4 + (narrow ? tallest - 1 : columns.length - 1) * stepX + boxWidth;
  const height = 4 + (narrow ? columns.length - 1 : tallest - 1) * stepY + BOX.height;
  svg.setAttribute("width", Math.max(width, 10));
  svg.setAttribute("height", Math.max(height, 10));
  svg.replaceChildren(draw("defs", {}, draw("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, draw("path", { class: "arrow", d: "M0 .5 8 4 0 7.5z" }))));
  for (const way of ways) {
    let curve = "";
    let from = null;
    for (const name of way) {
      const { x, y } = where.get(name);
      const [inX, inY, outX, outY] = narrow
        ? [x + boxWidth / 2, y, x + boxWidth / 2, y + BOX.height]
        : [x, y + BOX.height / 2, x + boxWidth, y + BOX.height / 2];
      if (from) {
        const bend = (narrow ? inY - from[1] : inX - from[0]) / 2;
        const [bendX, bendY] = narrow ? [0, bend] : [bend, 0];
        curve += `C${from[0] + bendX} ${from[1] + bendY} ${inX - bendX} ${inY - bendY} ${inX} ${inY}`;
        if (name.includes("\0")) curve += `L${outX} ${outY}`;
      } else curve = `M${outX} ${outY}`;
      from = [outX, outY];
    }
    svg.append(draw("path", { class: "edge", d: curve, "marker-end": "url(#tip)" }));
  }
  for (const view of views) {
    const { x, y } = where.get(view.view);
    const parts = { name: draw("text", { class: "name", x: BOX.left, y: 22 }), age: draw("text", { class: "soft", x: BOX.left, y: 39 }) };
    parts.node = draw("g", { class: "node", transform: `translate(${x} ${y})` },
      set(draw("title"), view.view),
      draw("rect", { class: "box", width: boxWidth, height: BOX.height, rx: 9 }),
      draw("rect", { class: "bar", x: 7, y: 11, width: 4, height: BOX.height - 22, rx: 2 }),
      parts.name, parts.age);
    parts.node.addEventListener("click", () => choose(view.view));
    nodes.set(view.view, parts);
    svg.append(parts.node);
    fit(parts.name, view.view, boxWidth - BOX.left - BOX.right);
  }
}
function updateNode(view) {
  const parts = nodes.get(view.view);
  if (!parts) return;
  const kind = freshness(view);
  const old = age(view);
  parts.node.dataset.fresh = kind;
  parts.node.classList.toggle("chosen", view.view === state.chosen);
  const words = view.running_since != null ? "refreshing …" : old == null ? FRESHNESS[kind].toLowerCase()
    : `${span(old)} old${view.interval_seconds ? `, every ${span(view.interval_seconds)}` : ""}`;
  set(parts.age, words);
}
function showWords(views) {
  const list = at("graph-words");
  while (list.children.length > views.length) list.lastChild.remove();
  views.forEach((view, index) => {
    const from = view.reads.length ? `reads ${view.reads.join(", ")}` : view.tables.length ? `reads tables only: ${view.tables.join(", ")}` : "reads no table";
    const old = age(view);
    const item = list.children[index] ?? list.appendChild(make("li"));
    set(item, `${view.view} ${from}; ${(FRESHNESS[freshness(view)] ?? "").toLowerCase()}${old == null ? "" : `, ${span(old)} old`}.`);
  });
}

// -- durations -----------------------------------------------------------------------------------

function showChoice(names) {
  const which = at("which");
  if ([...which.options].map((option) => option.value).join("\0") !== names.join("\0")) {
    which.replaceChildren(...names.map((name) => set(make("option", { value: name }), name)));
  }
  which.value = state.chosen ?? "";
  showChart();
}
function choose(name) {
  state.chosen = name;
  at("which").value = name;
  showChart();
  tick();
}
function showChart() {
  const svg = at("chart");
  const runs = (state.data.history[state.chosen] ?? []).filter((run) => run.success != null);
  const summary = state.data.summaries[state.chosen] ?? {};
  const width = Math.max(260, svg.clientWidth || 600);
  const [height, left, right, top, bottom] = [svg.clientHeight || 210, 58, 34, 12, 24];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const figures = [["Runs", runs.length], ["p50", took(summary.p50_duration_ms)], ["p95", took(summary.p95_duration_ms)], ["p99", took(summary.p99_duration_ms)], ["Longest", took(summary.max_duration_ms)], ["Failed", summary.failure_count ?? 0]];
  at("percentiles").replaceChildren(...figures.map(([term, figure]) => make("div", {}, make("dt", {}, term), make("dd", {}, String(figure)))));
  if (!runs.length) {
    svg.append(set(draw("text", { class: "soft", x: left, y: height / 2 }), "No run is recorded yet."));
    return;
  }
  const most = Math.max(...runs.map((run) => run.duration_ms), 1) * 1.08;
  const [first, last] = [runs[0].at, runs[runs.length - 1].at];
  const x = (moment) => left + (last > first ? (moment - first) / (last - first) : 0.5) * (width - left - right);
  const y = (ms) => height - bottom - (ms / most) * (height - top - bottom);
  for (let part = 0; part <= 3; part += 1) {
    const ms = (most / 1.08 / 3) * part;
    svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(ms), y2: y(ms) }),
      set(draw("text", { class: "soft", x: left - 8, y: y(ms) + 4, "text-anchor": "end" }), part ? took(ms) : "0"));
  }
  const labels = []; // from the top down
  for (const p of ["p99", "p95", "p50"]) {
    const ms = summary[`${p}_duration_ms`];
    if (ms == null || runs.length < 2) continue;
    svg.append(draw("line", { class: p, x1: left, x2: width - right, y1: y(ms), y2: y(ms) }));
    labels.push({ p, y: y(ms) + 4 });
  }
  for (let pass = 0; pass < 20; pass += 1) { // until no two of the three lie on each other
    for (let below = 1; below < labels.length; below += 1) {
      const [upper, lower] = [labels[below - 1], labels[below]];
      const lack = Math.max(0, 15 - (lower.y - upper.y)) / 2;
      upper.y -= lack;
      lower.y += lack;
    }
  }
  for (const label of labels) svg.append(set(draw("text", { class: "soft", x: width - right + 6, y: label.y }), label.p));
  svg.append(draw("path", { class: "line", d: runs.map((run, index) => `${index ? "L" : "M"}${x(run.at).toFixed(1)} ${y(run.duration_ms).toFixed(1)}`).join("") }));
  for (const run of runs) {
    const [cx, cy] = [x(run.at), y(run.duration_ms)];
    const mark = run.success ? draw("circle", { class: "dot", cx, cy, r: 2.6 })
      : draw("path", { class: "cross", d: `M${cx - 4} ${cy - 4}l8 8m0-8l-8 8` });
    mark.append(set(draw("title"), `${clock(run.at)}: ${run.status}, ${took(run.duration_ms)}`));
    svg.append(mark);
  }
  svg.append(set(draw("text", { class: "soft", x: left, y: height - 5 }), ago(first)),
    set(draw("text", { class: "soft", x: width - right, y: height - 5, "text-anchor": "end" }), ago(last)));
}

// -- tiers ---------------------------------------------------------------------------------------

const TIERS = { l1_cache: "L1, process memory", l2_cache: "L2, Redis", l3_cache: "L3, server buffers", l4_cache: "L4, materialized view", overall: "Overall" };
function showTiers() {
  const { cache } = state.data;
  at("tiers-card").hidden = cache == null;
  if (cache == null) return;
  const items = Object.entries(cache).filter(([, tier]) => tier && typeof tier === "object").map(([key, tier]) => {
    const name = TIERS[key] ?? key;
    const rate = tier.hit_rate == null ? "not asked yet" : `${(Math.floor(tier.hit_rate * 10) / 10).toFixed(1)} % hits`;
    const counts = tier.hits == null ? "" : `${tier.hits.toLocaleString()} of ${(tier.hits + (tier.misses ?? 0)).toLocaleString()}`;
    const item = make("li", {}, make("div", { class: "row" }, set(make("b"), name), set(make("span"), [rate, counts].filter(Boolean).join(", "))));
    if (tier.degraded_since != null) item.append(make("small", { class: "error" }, "Degraded: look-ups go round it"));
    const meter = make("meter", { min: 0, max: 100, value: tier.hit_rate ?? 0 });
    meter.setAttribute("aria-label", `${name}: ${rate}`);
    item.append(meter);
    return item;
  });
  at("tiers").replaceChildren(...items);
}

// -- every second --------------------------------------------------------------------------------

function tick() {
  if (!state.data) return;
  const { views } = state.data;
  showStrip(views);
  views.forEach((view) => { updateRow(view); updateNode(view); });
  showWords(views);
}

// -- refresh -------------------------------------------------------------------------------------

async function refresh(views, words) {
  views.forEach((name) => state.busy.add(name));
  tick();
  say(`Refreshing ${words}.`);
  try {
    // JSON and a header of our own: a page of another site can send neither without leave.
    const answer = await fetch(urls.refresh, {
      method: "POST", credentials: "same-origin",
      headers: { "Content-Type": "application/json", "X-Requested-With": "mvrefresh-dashboard" },
      body: JSON.stringify({ views }),
    });
    if (!answer.ok) throw new Error((await reason(answer)) || `The server answers ${answer.status}.`);
    const { failed_views: failed } = await answer.json();
    if (failed?.length) throw new Error(`not refreshed: ${failed.join(", ")}`);
    problem("refresh", null);
    say(`Refreshed ${words}.`);
  } catch (error) {
    problem("refresh", `Refresh of ${words}: ${error.message}`);
  } finally {
    views.forEach((name) => state.busy.delete(name));
    loadSoon();
  }
}

// -- events --------------------------------------------------------------------------------------

const SENTENCES = {
  RefreshStarted: (d) => `${d.view}: refresh begins, ${d.strategy}`,
  RefreshGoingOn: (d) => `${d.view}: is refreshed by ${d.application || `the server's process ${d.pid}`}`,
  RefreshRetried: (d) => `${d.view}: attempt ${d.attempt} failed, tries again: ${d.error?.message ?? ""}`,
  RefreshFellBack: (d) => `${d.view}: blocks its readers: ${d.reason}`,
  RefreshFinished: (d) => `${d.view}: ${String(d.status).replace("_", ", ")}${d.success ? ` in ${took(d.duration_ms)}` : ""}${d.error ? `: ${d.error.message}` : ""}`,
  RecordLost: (d) => `${d.view}: the record was lost`,
  ServiceStarted: (d) => `A service works for ${plural(d.views.length, "view")}`,
  ServiceStopped: () => "A service has stopped",
  ViewSuspended: (d) => `${d.view}: suspended, since ${d.because} failed ${d.failures} times`,
  ViewResumed: (d) => `${d.view}: resumed`,
  HealthChanged: (d) => `The service is ${d.after}${d.detail ? `: ${d.detail}` : ""}`,
  TierDegraded: (d) => `${d.tier}: gone round, ${d.why}`,
  TierRecovered: (d) => `${d.tier}: asked again`,
  FeedLost: (d) => `The database does not answer: ${d.why}`,
  FeedRestored: () => "The database answers again",
  Gap: () => "Some of what happened is not shown",
};
const BAD = new Set(["RefreshRetried", "RecordLost", "ViewSuspended", "TierDegraded", "FeedLost"]);
const told = new Set();
let caughtUp = false;

function hear(text) {
  let message;
  try { message = JSON.parse(text); } catch { return; }
  if (message.id) state.cursor = message.id;
  const { event, data } = message;
  if (event === "Joined") {
    live(data.feed ? "live" : "blind");
    caughtUp = true;
    loadSoon();
    return;
  }
  if (event === "FeedLost") live("blind");
  if (event === "FeedRestored") live("live");
  if (event === "RefreshFinished") {
    const key = `${data.run_id ?? data.record_id} ${data.view}`;
    if (told.has(key)) return;
    told.add(key);
    if (told.size > 2000) told.delete(told.values().next().value);
  }
  const sentence = SENTENCES[event]?.(data);
  if (sentence) {
    const bad = BAD.has(event) || data.success === false;
    const item = make("li", bad ? { "data-fresh": "failed" } : {}, set(make("time"), clock(Date.parse(message.at) / 1000)), setWords(make("span"), sentence));
    if (caughtUp) item.classList.add("new");
    at("happened").prepend(item);
    while (at("happened").children.length > 50) at("happened").lastChild.remove();
    at("quiet").hidden = true;
    if (event === "RefreshFinished" && caughtUp) say(sentence);
  }
  if (event !== "Heartbeat") loadSoon();
}

const LIVE = { connecting: "Connecting", live: "Live", lost: "Reconnecting", blind: "Live, this process only" };
function live(what) {
  at("live").dataset.state = what;
  set(at("live-text"), LIVE[what]);
}

let failures = 0;
let quiet = 0;
function listen() {
  const url = new URL(urls.events, location.href);
  if (state.cursor) url.searchParams.set("since", state.cursor);
  if (failures >= 3) return listenBySse(url); // something on the way takes no WebSocket
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  const watch = () => {
    clearTimeout(quiet);
    quiet = setTimeout(() => socket.close(), 40000); // two heartbeats and a half
  };
  socket.onopen = watch;
  socket.onmessage = (message) => { failures = 0; watch(); hear(message.data); };
  socket.onclose = (gone) => {
    clearTimeout(quiet);
    if (gone.code === 1008) state.cursor = null; // not a place to go on from
    failures += 1;
    live("lost");
    setTimeout(listen, Math.min(15000, 500 * 2 ** failures) * (0.5 + Math.random() / 2));
  };
}
function listenBySse(url) {
  const source = new EventSource(url);
  source.onmessage = (message) => { failures = 0; hear(message.data); };
  source.onerror = () => {
    live("lost");
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  };
}

// -- theme ---------------------------------------------------------------------------------------

const system = matchMedia("(prefers-color-scheme: dark)");
const stored = (() => { try { return localStorage.getItem("mvrefresh-theme"); } catch { return null; } })();
if (stored === "dark" || stored === "light") root.dataset.theme = stored;
function isDark() { return root.dataset.theme ? root.dataset.theme === "dark" : system.matches; }
function showTheme() { at("theme").setAttribute("aria-pressed", String(isDark())); }
at("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("mvrefresh-theme", root.dataset.theme); } catch { /* it holds for this page */ }
  showTheme();
});
system.addEventListener("change", showTheme);
showTheme();

// -- begin ---------------------------------------------------------------------------------------

at("legend").append(...["fresh", "late", "stale", "suspended", "unscheduled"].map((kind) => make("li", { "data-fresh": kind }, kind === "suspended" ? "Suspended, not populated" : kind === "unscheduled" ? "Not scheduled, or age unknown" : FRESHNESS[kind])));
at("filter").addEventListener("input", filter);
at("which").addEventListener("change", () => choose(at("which").value));
at("refresh-all").addEventListener("click", () => refresh(state.data.views.map((view) => view.view), "all views"));
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => { if (state.data) { showGraph(); showChart(); tick(); } }, 150);
});
if (readOnly) at("do-title").remove();
load();
listen();
setInterval(tick, 1000);
setInterval(() => { if (!document.hidden) load(); }, 15000);
