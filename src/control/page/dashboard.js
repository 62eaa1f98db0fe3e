"use strict";
const $ = (id) => document.getElementById(id);
const MINUTE = 60;
const past = [];
let may = {}, ready = null;

const count = (n) => n >= 1e6 ? (n / 1e6).toFixed(2) + " M" : n >= 1e4 ? (n / 1e3).toFixed(1) + " k" : n >= 100 || Number.isInteger(n) ? Math.round(n).toString() : n.toFixed(1);
const bytes = (n) => n >= 2 ** 30 ? (n / 2 ** 30).toFixed(2) + " GiB" : n >= 2 ** 20 ? (n / 2 ** 20).toFixed(1) + " MiB" : n >= 1024 ? (n / 1024).toFixed(1) + " KiB" : Math.round(n) + " B";
const time = (ms) => ms >= 864e5 ? Math.floor(ms / 864e5) + " d" : ms >= 36e5 ? Math.floor(ms / 36e5) + " h" : ms >= 6e4 ? Math.floor(ms / 6e4) + " min" : Math.round(ms / 1e3) + " s";
const micros = (us) => us >= 1e6 ? (us / 1e6).toFixed(2) + " s" : us >= 1e3 ? (us / 1e3).toFixed(1) + " ms" : Math.round(us) + " µs";
const latency = (ms) => ms === null ? "–" : ms <= 1 ? "≤ 1 ms" : ms >= 1000 ? "≤ " + (ms / 1000).toFixed(1) + " s" : "≤ " + ms + " ms";
const sum = (shards, name) => shards.reduce((all, shard) => all + shard[name], 0);
const charts = {
  connections: new Chart($("connections-line"), "Connections", count),
  events: new Chart($("events-line"), "Events a second", count),
  deliveries: new Chart($("deliveries-line"), "Deliveries a second", count),
  latency: new Chart($("latency-line"), "Delivery latency, p99", (ms) => count(ms) + " ms"),
  memory: new Chart($("memory-line"), "Memory", bytes, 1024),
};

function write(element, text) { if (element.textContent !== text) element.textContent = text; }
function state(text, kind) { write($("state"), text); $("state").className = "pill " + kind; }
function tell(text, isBad) { write($("told"), text); $("told").classList.toggle("bad", Boolean(isBad)); }

// The token is sent by hand, which EventSource cannot do.
async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.body && { "Content-Type": "application/json" }, ...token && { Authorization: "Bearer " + token } };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  const text = await answer.text();
  let message = text.trim() || answer.statusText;
  try { message = JSON.parse(text).error.message; } catch { /* the text is the message */ }
  throw Object.assign(new Error(message), { status: answer.status });
}
const get = async (path, options) => (await ask(path, options)).json();
const send = (method, path, body) => get(path, { method, body: JSON.stringify(body) });

// The events of a stream, as their names and their data.
async function* streamed(path, options) {
  const reader = (await ask(path, options)).body.pipeThrough(new TextDecoderStream()).getReader();
  yield { name: "open" };
  for (let rest = "";;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const of = (field) => part.split("\n").filter((line) => line.startsWith(field)).map((line) => line.slice(field.length)).join("\n");
      if (of("data: ")) yield { name: of("event: ") || "message", data: JSON.parse(of("data: ")) };
    }
  }
}

// Fills a table. A cell is a text, or has one with `hot`, or with `href`: then its row leads there. Rows and cells that are there
// already are used again, so that neither the focus nor a selection is lost.
function table(element, head, rows, none) {
  const fill = (tr, cells, kind) => {
    while (tr.children.length > cells.length) tr.lastChild.remove();
    cells.forEach((cell, i) => {
      const { text, hot, href } = typeof cell === "object" ? cell : { text: cell };
      let td = tr.children[i];
      if (!td) { td = document.createElement(kind); tr.append(td); if (kind === "th") td.scope = "col"; }
      let inner = td;
      if (href) { inner = td.querySelector("a") ?? (td.textContent = "", td.appendChild(document.createElement("a"))); inner.setAttribute("href", href); }
      write(inner, String(text));
      td.className = hot ? "hot" : "";
    });
    tr.className = cells.some((cell) => cell.href) ? "leads" : "";
    return tr;
  };
  const wanted = [head, ...rows.length ? rows : [[none]]];
  while (element.rows.length > wanted.length) element.deleteRow(-1);
  wanted.forEach((cells, i) => fill(element.rows[i] ?? element.insertRow(), cells, i ? "td" : "th"));
  if (!rows.length) Object.assign(element.rows[1].cells[0], { className: "none", colSpan: head.length });
  else element.rows[1].cells[0].colSpan = 1;
}
const channelLink = (name) => ({ text: name, href: "#channel/" + encodeURIComponent(name) });
const connectionLink = (conn) => ({ text: conn, href: "#connection/" + encodeURIComponent(conn) });

// The value below which so many of the newly counted ones lie: the upper bound of its bucket.
function quantile(now, before, q) {
  const fresh = now.counts.map((n, i) => n - before.counts[i]);
  const all = fresh.reduce((a, b) => a + b, 0);
  if (!all) return null;
  let seen = 0;
  for (let i = 0; i < fresh.length; i++) if ((seen += fresh[i]) >= q * all) return now.first * 2 ** i;
}
const merged = (shards, name) => ({ first: shards[0].measures[name].first, counts: shards[0].measures[name].counts.map((_, i) => shards.reduce((all, s) => all + s.measures[name].counts[i], 0)) });

function show(figures) {
  const { stats, channels, slowest } = figures, { shards, node, process } = stats;
  const at = performance.now() / 1000;
  past.push({ at, stats });
  while (past.length > 1 && past[0].at < at - MINUTE) past.shift();
  // Over some seconds, so that the figures can be read.
  const before = past[Math.max(0, past.length - 4)], minute = past[0];
  const seconds = Math.max(at - before.at, 0.001);
  const rate = (f) => past.length > 1 ? (f(stats) - f(before.stats)) / seconds : 0;
  write($("about"), `version ${process.version}, up ${time(process.uptime_ms)}, ${shards.length} shard${shards.length > 1 ? "s" : ""}`);
  state(node.ready ? "serving" : "takes no new clients", node.ready ? "good" : "warn");
  showHead(stats, before.stats, rate);
  showShards(shards, before.stats.shards, seconds);
  showNodes(stats);
  table($("channels"), ["channel", "events/s", "subscribers", "history"], channels.map((c) => [channelLink(c.channel), count(c.events_per_second), count(c.subscribers), bytes(c.history_bytes)]),
    figures.may.see ? "no events in the last seconds" : "shown only with an [admin] token");
  table($("slowest"), ["connection", "", "from", "behind", "waits", "open for"], slowest.map((c) => [connectionLink(c.conn), c.user ? `${c.transport}, ${c.user}` : c.transport, c.address,
    { text: bytes(c.lag_bytes), hot: c.blocked }, bytes(c.waiting_bytes), time(c.age_ms)]), figures.may.see ? "nobody is connected" : "shown only with an [admin] token");
  showLosses(stats, minute.stats);
}

function showHead(stats, before, rate) {
  const { shards, node, process } = stats;
  write($("connections"), count(node.connections));
  write($("transports"), ["sse", "ws", "poll", "http"].map((t) => `${count(sum(shards, "connections_" + t))} ${t}`).join(", "));
  charts.connections.add(node.connections);
  const events = rate((s) => s.node.events_published), deliveries = rate((s) => sum(s.shards, "deliveries")), sends = rate((s) => sum(s.shards, "sends"));
  write($("events"), count(events));
  write($("channels-count"), `${count(node.channels)} channels, ${bytes(node.history_bytes)} of history`);
  if (past.length > 1) charts.events.add(events);
  write($("deliveries"), count(deliveries));
  write($("bytes"), `${bytes(rate((s) => sum(s.shards, "sent_bytes")))}/s in ${count(sends)} sends/s`);
  if (past.length > 1) charts.deliveries.add(deliveries);
  const now = merged(shards, "delivery_latency_ms"), then = merged(before.shards, "delivery_latency_ms"), p99 = quantile(now, then, 0.99);
  write($("latency"), latency(p99));
  write($("latency-more"), p99 === null ? "no deliveries just now" : `p50 ${latency(quantile(now, then, 0.5))}, most ${latency(quantile(now, then, 1))}`);
  if (past.length > 1) charts.latency.add(p99 ?? 0);
  write($("memory"), bytes(process.memory_bytes));
  write($("memory-more"), `${rate((s) => s.process.cpu_ms / 10).toFixed(0)} % of a core`);
  charts.memory.add(process.memory_bytes);
}

function showShards(shards, before, seconds) {
  table($("shards"), ["shard", "connections", "room", "at work", "events in/s", "deliveries/s", "turn p99", "behind at most"], shards.map((shard, i) => {
    const old = before[i], per = (name) => (shard[name] - old[name]) / seconds;
    const load = Math.min(100, per("busy_us") / 1e4), turn = quantile(shard.measures.turn_us, old.measures.turn_us, 0.99);
    const full = shard.slots / shard.descriptors_max;
    return [i, count(shard.slots), { text: count(shard.descriptors_max), hot: full > 0.9 }, { text: load.toFixed(0) + " %", hot: load > 90 }, count(per("events_received")), count(per("deliveries")),
      turn === null ? "–" : turn >= 1000 ? "≤ " + (turn / 1000).toFixed(1) + " ms" : "≤ " + turn + " µs", bytes(shard.lag_max_bytes)];
  }), "");
}

function showNodes({ nodes, process }) {
  $("nodes-card").hidden = !nodes.length;
  table($("nodes"), ["node", "version", "position", "last heard"], nodes.map((n) => [n.name || "–", { text: n.version, hot: n.version !== process.version }, n.position,
    { text: `${time(n.silent_ms)} ago`, hot: n.silent_ms > 10000 }]), "");
}

function showLosses(stats, minute) {
  const { shards, node } = stats;
  const closed = (s) => s.shards.reduce((all, shard) => { for (const [reason, n] of Object.entries(shard.closed)) all[reason] = (all[reason] || 0) + n; return all; }, {});
  const total = closed(stats), old = closed(minute);
  table($("closed"), ["reason", "last minute", "in all"], Object.entries(total).filter(([, n]) => n).sort((a, b) => (b[1] - old[b[0]]) - (a[1] - old[a[0]]) || b[1] - a[1])
    .map(([reason, n]) => [reason.replaceAll("_", " "), count(n - old[reason]), count(n)]), "none yet");
  const losses = [["gaps told", "gaps"], ["slow clients cut off", "slow_disconnected"], ["slow clients moved on", "slow_gaps"], ["slow clients skipped to the newest", "slow_skips"],
    ["events they were moved past", "slow_events_dropped"], ["connections refused", "refused"], ["requests answered with an error", "errors"], ["tokens refused", "tokens_refused"]];
  const rows = losses.map(([text, name]) => [text, count(sum(shards, name) - sum(minute.shards, name)), count(sum(shards, name))]);
  rows.push(["times publishers had to wait", count(node.congestions - minute.node.congestions), count(node.congestions)]);
  table($("losses"), ["", "last minute", "in all"], rows.filter((row) => row[2] !== "0"), "none");
}

// Asks before something is done to clients; gives the reason for them, or null if it is not to be done.
function sure(title, text, verb, hasReason) {
  write($("sure-title"), title);
  write($("sure-text"), text);
  write($("sure-yes"), verb);
  $("sure-reason").hidden = !hasReason;
  $("reason").value = "";
  $("sure").showModal();
  return new Promise((done) => {
    const end = (answer) => { $("sure").onclose = null; $("sure").close(); done(answer); };
    $("sure-yes").onclick = () => end($("reason").value.trim());
    $("sure-no").onclick = () => end(null);
    $("sure").onclose = () => end(null);
  });
}

// Does something and tells its outcome.
async function attempt(work) {
  try { tell(await work()); } catch (error) { tell(error.message, true); }
}

async function showControls() {
  $("find").hidden = !may.see;
  $("drain").hidden = $("log").hidden = !may.change;
  $("controls").hidden = !may.see && !may.change;
  const [{ draining }, { level }] = await Promise.all([get("v1/drain"), get("v1/log")]);
  write($("drain"), draining ? "take clients again" : "drain");
  if (![...$("level").options].some((option) => option.value === level)) $("level").add(new Option(level));
  $("level").value = level;
}
$("drain").onclick = () => attempt(async () => {
  const { draining } = await get("v1/drain");
  if (!draining && await sure("Drain this server?", "All clients are told to reconnect, at an even pace, and new ones are refused until you take it back.", "drain") === null) return "";
  await send("PUT", "v1/drain", { draining: !draining });
  await showControls();
  return draining ? "New clients are welcome again." : "Clients are let go, and new ones are refused.";
});
$("level").onchange = () => attempt(async () => {
  const { level } = await send("PUT", "v1/log", { level: $("level").value });
  return `The log's level is ${level}, until the server ends.`;
});
$("find").onsubmit = (event) => {
  event.preventDefault();
  const wanted = $("wanted").value.trim();
  if (wanted) location.hash = (/^\d+\.\d+\.\d+$/.test(wanted) ? "connection/" : "channel/") + encodeURIComponent(wanted);
};

async function follow() {
  for await (const { name, data } of streamed("v1/live")) {
    if (name === "open") tell("");
    if (name !== "message") continue;
    const changed = JSON.stringify(may) !== JSON.stringify(data.may) || ready !== data.stats.node.ready;
    may = data.may;
    ready = data.stats.node.ready;
    $("form").hidden = true;
    show(data);
    if (changed) { await showControls(); route(); }
  }
}

// Waits for a token; the message says what was wrong with the last one.
function token(message) {
  state("waits for the token", "");
  for (const part of ["overview", "detail", "controls"]) $(part).hidden = true;
  write($("form-note"), message);
  $("form").hidden = false;
  $("token").focus();
  return new Promise((done) => {
    $("form").onsubmit = (event) => { event.preventDefault(); sessionStorage.setItem("token", $("token").value); done(); };
  });
}

async function run() {
  if (document.body.dataset.token === "needed" && !sessionStorage.getItem("token")) await token("");
  for (;;) {
    try {
      await follow();
      state("reconnecting", "warn");
    } catch (error) {
      if (error.status === 401) { await token("This is not the token."); continue; }
      state("no figures", "bad");
      tell(error.status ? error.message : "The server does not answer. The page tries again.", true);
    }
    past.length = 0;
    may = {};
    await new Promise((go) => setTimeout(go, 1500));
  }
}
