"use strict";
const $ = (id) => document.getElementById(id);
const field = $("channels");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const STRIP_MS = 30000;

const count = (n) => n >= 1e6 ? (n / 1e6).toFixed(2) + " M" : n >= 1e4 ? (n / 1e3).toFixed(1) + " k" : n >= 100 || Number.isInteger(n) ? String(Math.round(n)) : n.toFixed(1);
const seconds = (ms) => ms >= 999.5 ? `${Math.round(ms / 1000)} s` : `${Math.round(ms)} ms`;

// A position: milliseconds and a number within them.
const place = (id) => id.split("-").map(Number);
const isAfter = (id, other) => { const [a, b] = place(id), [c, d] = place(other); return a !== c ? a > c : b > d; };

// The least difference seen between this clock and the publisher's, which is that of the clocks and of the fastest delivery.
let skew = Infinity;

// The transports: the name of each, and how to read it in three lines without the library.
const TRANSPORTS = {
  sse: ["event stream", (address) => `const source = new EventSource("${address("/sse")}");
source.onmessage = (event) => console.log(event.lastEventId, event.data);
source.addEventListener("ringcast.gap", (event) => console.log("lost", event.data));`],
  ws: ["WebSocket", (address) => `const socket = new WebSocket("${address("/ws").replace(/^http/, "ws")}");
socket.onmessage = (event) => console.log(JSON.parse(event.data));
socket.onopen = () => socket.send(JSON.stringify({ send: { chat: "hello" } }));`],
  poll: ["long poll", (address) => `const url = "${address("/poll")}"; let answer = await (await fetch(url + "&wait=0")).json();
for (;; answer = await (await fetch(url + "&after=" + answer.next)).json())
  for (const event of answer.events) console.log(event.id, event.channel, event.data);`],
};

// A client of the library in a panel, over one transport.
class Panel {
  constructor(transport, connect) {
    const panel = $("panel").content.cloneNode(true).firstElementChild;
    for (const part of panel.querySelectorAll("[data-part]")) this[part.dataset.part] = part;
    const [name, lines] = TRANSPORTS[transport];
    Object.assign(this, { panel, lines, connect: () => connect("/", { transports: [transport], beat: 5 }) });
    panel.id = name.replaceAll(" ", "-");
    panel.querySelector("h2").textContent = name;
    this.button.onclick = () => this.client ? this.cut() : this.resume();
    this.copy.onclick = () => copyText(this.code, this.copy);
    $("main").append(panel);
    this.reset();
    setInterval(() => { this.rate.textContent = this.recent; this.recent = 0; }, 1000);
  }

  reset() {
    this.counts = { total: 0, lost: 0, repeated: 0, gaps: 0 };
    Object.assign(this, { id: undefined, last: {}, numbers: {}, recent: 0, bars: [], away: [], left: 0, ended: new Set(), isBegun: false, isCatching: false });
    this.latency.textContent = "–";
    this.rate.textContent = "0";
    this.list.replaceChildren();
    this.paint();
  }

  channels() { return field.value.split(",").map((channel) => channel.trim()).filter(Boolean); }

  start() {
    if (this.client) this.cut();
    this.reset();
    const names = this.channels().map((channel) => encodeURI(channel)).join(",");
    this.code.textContent = this.lines((path) => `${location.origin}${path}?channel=${names}`);
    this.resume();
  }

  // Connects, from the position on if there is one.
  resume() {
    const client = this.client = this.connect();
    this.button.textContent = "cut";
    this.say("connecting", "warn", "");
    client.on("state", (state) => client === this.client && this.changes(state));
    client.on("gap", () => this.gap());
    client.on("end", ({ channel }) => this.end(channel));
    client.on("unsubscribed", ({ reason }) => this.stop("refused", "bad", reason, "refused"));
    for (const channel of this.channels()) client.subscribe(channel, (event) => this.event(event), { after: this.id });
  }

  cut() { this.stop("cut", "", "the position is kept: resume goes on from it"); }

  // Ends the client for good, or until somebody resumes it.
  stop(state, kind, told, look = "") {
    const { client } = this;
    if (!client) return;
    this.client = undefined;
    this.id = client.position ?? this.id;
    client.close();
    this.button.textContent = look ? "try again" : "resume";
    this.say(state, kind, told, look);
    this.leave();
  }

  say(state, kind, told, look = "") {
    this.state.textContent = state;
    this.state.className = "pill " + kind;
    this.told.textContent = told;
    this.panel.className = "card panel " + look;
  }

  paint() {
    for (const [name, value] of Object.entries(this.counts)) this[name].textContent = count(value);
    this.lost.className = this.counts.lost ? "bad" : "";
    this.repeated.className = this.counts.repeated ? "bad" : "";
  }

  row(what, text, look = "") {
    const line = document.createElement("li"), channel = document.createElement("b"), words = document.createElement("span");
    line.className = look;
    channel.textContent = what;
    words.textContent = text;
    line.append(channel, words);
    this.list.prepend(line);
    while (this.list.children.length > 10) this.list.lastChild.remove();
  }

  // The client's state, which has the server's words if it gave some.
  changes({ name, reason, ms }) {
    if (name === "open") this.opened();
    if (name !== "waiting" && name !== "closed") return;
    const isTold = reason.message !== reason.code;
    const text = isTold ? `${reason.message} (${reason.code})` : reason.code === "cut" ? "the connection broke" : reason.code;
    if (isTold) this.row("bye", text, "note");
    if (name === "closed") return this.stop("refused", "bad", text, "refused");
    this.leave();
    this.say("waiting", "warn", isTold ? `${text}; again in ${seconds(ms)}` : `${text}; trying again in ${seconds(ms)}`);
  }

  leave() { if (!this.left) this.left = Date.now(); }

  opened() {
    this.openedAt = Date.now();
    if (this.left) this.away.push([this.left, this.openedAt]);
    this.left = 0;
    this.isCatching = this.isBegun;
    this.caught = 0;
    this.hasGap = false;
    if (this.isBegun) this.tellCaught(); else this.say("open", "good", "");
    this.isBegun = true;
  }

  tellCaught() { this.say("open", "good", `resumed, caught up ${this.caught}${this.hasGap ? ", after a gap" : ""}`, "resumed"); }

  event({ id, channel, data }) {
    // The id is no time: after a crash ids run ahead of the clock for a while.
    const now = Date.now(), published = data?.t;
    this.counts.total++;
    this.recent++;
    if (this.last[channel] && !isAfter(id, this.last[channel])) this.counts.repeated++; else this.last[channel] = id;
    if (published) skew = Math.min(skew, now - published);
    const isMissed = this.isCatching && (published ? published + skew < this.openedAt : now < this.openedAt + 1000);
    if (isMissed) { this.caught++; this.tellCaught(); } else this.isCatching = false;
    if (Number.isInteger(data?.n)) this.judge(channel, data);
    if (published && !isMissed) this.latency.textContent = seconds(Math.max(0, now - published));
    this.bars.push({ at: published ? published + skew : now, isMissed, channel });
    this.row(channel.split(":").at(-1), words(data));
    this.paint();
  }

  // Counts holes in the numbers. They begin at 1 in each run of the publisher, which has a name.
  judge(channel, { n, run }) {
    const last = this.numbers[channel];
    const expected = !last ? n : last.run === run ? last.n + 1 : 1;
    // A hole that the server has told of, by a gap since the last event, is no loss behind its back.
    const { gaps } = this.counts;
    if (n > expected && last.gaps === gaps) this.counts.lost += n - expected;
    if (!last || last.run !== run || n > last.n) this.numbers[channel] = { run, n, gaps };
  }

  gap() {
    this.counts.gaps++;
    this.hasGap = true;
    this.row("gap", "the server no longer has some of the events before this", "note");
    if (this.isCatching) this.tellCaught();
    this.paint();
  }

  end(channel) {
    this.ended.add(channel);
    this.row("end", `${channel} has ended`, "note");
    const all = this.channels();
    if (all.every((name) => this.ended.has(name))) this.stop("ended", "", all.length > 1 ? "all of these channels have ended" : "this channel has ended");
  }
}

// What an event says, as people write it.
function words(data) {
  if (typeof data === "string") return data;
  if (typeof data?.text === "string") return data.visitor ? `“${data.text}”` : data.text;
  if (typeof data?.price === "number") return data.price.toFixed(2);
  return data?.time ?? JSON.stringify(data) ?? "";
}

async function copyText(source, button) {
  let isCopied = true;
  try { await navigator.clipboard.writeText(source.textContent); } catch {
    // Pages that are not of this host have no clipboard without TLS, but may copy a selection.
    getSelection().selectAllChildren(source);
    isCopied = document.execCommand("copy");
  }
  button.textContent = isCopied ? "copied" : "select and copy";
  setTimeout(() => { button.textContent = "copy"; }, 2000);
}

// Draws when the events of the last seconds were published, and when the client was away.
function draw(client) {
  const { strip } = client, now = Date.now();
  const wide = strip.clientWidth * devicePixelRatio, high = strip.clientHeight * devicePixelRatio;
  if (strip.width !== wide || strip.height !== high) Object.assign(strip, { width: wide, height: high });
  const pen = strip.getContext("2d"), x = (at) => wide * (1 - (now - at) / STRIP_MS);
  client.bars = client.bars.filter((bar) => bar.at > now - STRIP_MS);
  client.away = client.away.filter(([, until]) => until > now - STRIP_MS);
  pen.clearRect(0, 0, wide, high);
  pen.fillStyle = colours.line;
  for (const [from, until] of [...client.away, ...client.left ? [[client.left, now]] : []]) pen.fillRect(x(from), 0, x(until) - x(from), high);
  for (const { at, isMissed, channel } of client.bars) {
    const tall = high * (channel.endsWith("ticker") ? .35 : channel.endsWith("clock") ? .6 : .9);
    pen.fillStyle = isMissed ? colours.good : colours.accent;
    pen.fillRect(x(at) - devicePixelRatio, high - tall, 2 * devicePixelRatio, tall);
  }
}

const clients = [];
$("form").onsubmit = (event) => { event.preventDefault(); for (const client of clients) client.start(); };

// The colours of the present scheme: a canvas knows no variables.
let colours;
function mix() {
  const colour = (name) => { $("probe").style.color = `var(--${name})`; return getComputedStyle($("probe")).color; };
  colours = { line: colour("line"), good: colour("good"), accent: colour("accent") };
}
matchMedia("(prefers-color-scheme: dark)").onchange = mix;

let drawnAt = 0;
function animate(at) {
  if (at - drawnAt >= (still.matches ? 1000 : 40)) {
    drawnAt = at;
    for (const client of clients) draw(client);
  }
  requestAnimationFrame(animate);
}

// The page's own connection: the server's figures come over it, and what visitors say goes over it.
const chart = new Chart($("deliveries-line"), "Deliveries a second", count);
let figures = null;
function showFigures(now) {
  $("connections").textContent = count(now.connections);
  $("events").textContent = count(now.events);
  if (figures && now.deliveries >= figures.deliveries && now.t > figures.t) {
    const rate = 1000 * (now.deliveries - figures.deliveries) / (now.t - figures.t);
    $("deliveries").textContent = count(rate);
    chart.add(rate);
  }
  figures = now;
}

function mayTalk(may, state, kind) {
  for (const part of [...$("say").elements, $("ask")]) part.disabled = !may;
  $("state").textContent = state;
  $("state").className = "pill " + kind;
}

function talk(connect) {
  const own = connect("/");
  own.on("state", ({ name, transport, reason }) => {
    if (name === "open") mayTalk(transport === "ws", "live", "good");
    else if (name === "closed") mayTalk(false, "refused", "bad");
    else mayTalk(false, "not connected", "warn");
    $("said").textContent = reason && reason.message !== reason.code ? reason.message : "";
  });
  let answer;
  // Reads the answer's words up to the end of its channel.
  const read = async (channel, after) => {
    $("ask").textContent = "stop";
    $("answer").replaceChildren();
    answer = own.stream(channel, { after });
    try {
      for await (const word of answer) $("answer").append(word);
    } catch (error) { $("answer").append(` (${error.message})`); }
    answer = undefined;
    $("ask").textContent = "ask";
  };
  $("ask").onclick = () => (answer ? answer.cancel() : own.send({ ask: "Why is nothing lost?" })).catch((error) => { $("answer").textContent = error.message; });
  own.on("message", ({ chat, message, answer, after }) => {
    if (answer) read(answer, after);
    if (chat === "said") { $("line").value = ""; $("said").textContent = "published to demo:chat"; }
    if (chat === "refused") $("said").textContent = message;
  });
  own.subscribe("demo:figures", ({ data }) => showFigures(data));
  $("say").onsubmit = async (event) => {
    event.preventDefault();
    $("said").textContent = "";
    try { await own.send({ chat: $("line").value }); } catch (error) { $("said").textContent = error.message; }
  };
}

mix();
import("/ringcast.js").then(({ connect }) => {
  for (const transport in TRANSPORTS) clients.push(new Panel(transport, connect));
  for (const client of clients) client.start();
  talk(connect);
  requestAnimationFrame(animate);
});
