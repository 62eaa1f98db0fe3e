"use strict";
const $ = (id) => document.getElementById(id);
const field = $("channels");
const still = matchMedia("(prefers-reduced-motion: reduce)");
// Refusals that stay the same however often one asks; after all others the page asks again.
const FINAL = new Set(["bad_request", "bad_query", "no_channel", "bad_channel", "unauthorized", "invalid_token", "token_expired", "forbidden", "origin", "not_found", "method", "ended", "violation"]);
const STRIP_MS = 30000;

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const later = () => 1000 + Math.random() * 2000;
const count = (n) => n >= 1e6 ? (n / 1e6).toFixed(2) + " M" : n >= 1e4 ? (n / 1e3).toFixed(1) + " k" : n >= 100 || Number.isInteger(n) ? String(Math.round(n)) : n.toFixed(1);
const seconds = (ms) => ms >= 999.5 ? `${Math.round(ms / 1000)} s` : `${Math.round(ms)} ms`;

// A position: milliseconds and a number within them.
const place = (id) => id.split("-").map(Number);
const isAfter = (id, other) => { const [a, b] = place(id), [c, d] = place(other); return a !== c ? a > c : b > d; };

// The server's own words for an answer that is an error.
async function refusal(answer) {
  const text = await answer.text();
  const after = Number(answer.headers.get("retry-after"));
  let error = { code: "", message: text.trim() || `${answer.status} ${answer.statusText}` };
  try { error = JSON.parse(text).error; } catch { /* the text is the message */ }
  return { code: error.code, message: error.message, status: answer.status, retry_ms: after > 0 ? 1000 * after : undefined };
}

// The least difference seen between this clock and the publisher's, which is that of the clocks and of the fastest delivery.
let skew = Infinity;

// One client of the server in a panel: what all transports share.
class Client {
  constructor(name) {
    const panel = $("panel").content.cloneNode(true).firstElementChild;
    for (const part of panel.querySelectorAll("[data-part]")) this[part.dataset.part] = part;
    this.panel = panel;
    panel.id = name.replaceAll(" ", "-");
    panel.querySelector("h2").textContent = name;
    this.button.onclick = () => this.isRunning ? this.cut() : this.resume();
    this.copy.onclick = () => copyText(this.code, this.copy);
    $("main").append(panel);
    this.reset();
    setInterval(() => { this.rate.textContent = this.recent; this.recent = 0; }, 1000);
  }

  reset() {
    this.counts = { total: 0, lost: 0, repeated: 0, gaps: 0 };
    Object.assign(this, { id: "", numbers: {}, recent: 0, bars: [], away: [], ended: new Set(), isBegun: false, isCatching: false, goodbye: null });
    this.latency.textContent = "–";
    this.rate.textContent = "0";
    this.list.replaceChildren();
    this.paint();
  }

  start() { if (this.isRunning) this.cut(); this.reset(); this.code.textContent = this.lines(); this.resume(); }

  resume() {
    this.isRunning = true;
    this.button.textContent = "cut";
    this.goodbye = null;
    this.say("connecting", "warn", "");
    this.open();
  }

  cut() { this.stop("cut", "", "the position is kept: resume goes on from it"); }

  // Ends the client for good, or until somebody resumes it.
  stop(state, kind, told, look = "") {
    this.isRunning = false;
    this.button.textContent = "resume";
    this.close();
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

  channels() { return field.value.split(",").map((channel) => channel.trim()).filter(Boolean); }
  query() { return "channel=" + this.channels().map(encodeURIComponent).join(",") + "&envelope=1"; }
  address(path) { return `${location.origin}${path}?channel=${this.channels().map((channel) => encodeURI(channel)).join(",")}`; }

  leave() { if (!this.left) this.left = Date.now(); }

  opened() {
    this.openedAt = Date.now();
    if (this.left) this.away.push([this.left, this.openedAt]);
    this.left = 0;
    this.goodbye = null;
    this.isCatching = this.isBegun;
    this.caught = 0;
    this.hasGap = false;
    if (this.isBegun) this.tellCaught(); else this.say("open", "good", "");
    this.isBegun = true;
  }

  tellCaught() { this.say("open", "good", `resumed, caught up ${this.caught}${this.hasGap ? ", after a gap" : ""}`, "resumed"); }

  // The position at which the connection begins.
  begins(id) { if (id && (!this.id || isAfter(id, this.id))) this.id = id; }

  event(id, channel, data) {
    // The id is no time: after a crash ids run ahead of the clock for a while.
    const now = Date.now(), published = data?.t;
    this.counts.total++;
    this.recent++;
    if (this.id && !isAfter(id, this.id)) this.counts.repeated++; else this.id = id;
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
    if (this.channels().every((name) => this.ended.has(name))) this.over();
  }

  over() { this.stop("ended", "", this.channels().length > 1 ? "all of these channels have ended" : "this channel has ended"); }

  bye(goodbye) {
    this.goodbye = goodbye;
    this.row("bye", `${goodbye.reason} (${goodbye.code})`, "note");
    const again = goodbye.retry_ms === undefined ? "" : `; again in ${seconds(goodbye.retry_ms)}`;
    this.say("closed", "warn", `${goodbye.reason} (${goodbye.code})${again}`);
  }

  // The connection is refused: for good, or until the page asks again. Returns the time until then.
  refused({ code, message, status, retry_ms }) {
    if (code === "ended") {
      this.over();
      return null;
    }
    const text = `${message}${code ? ` (${code}${status ? `, ${status}` : ""})` : ""}`;
    if (FINAL.has(code)) {
      this.stop("refused", "bad", text, "refused");
      this.button.textContent = "try again";
      return null;
    }
    const wait = retry_ms ?? later();
    this.leave();
    this.say("waiting", "warn", `${text}; again in ${seconds(wait)}`);
    return wait;
  }

  broken(told) { this.leave(); this.say("waiting", "warn", told); }

  // Opens again after a while, unless the client was cut or opened meanwhile.
  async again(ms, of) {
    await pause(ms);
    if (this.isRunning && this.connection === of) this.open();
  }

  // Asks over HTTP why a connection was refused, which browsers do not tell, or why an open one is kept waiting.
  async why(path, of, isOpen = false) {
    try {
      const ask = new AbortController();
      const answer = await fetch(path, { headers: { Accept: "text/event-stream" }, signal: ask.signal });
      if (!this.isRunning || this.connection !== of) return ask.abort();
      if (answer.status === 204) return this.over();
      if (!answer.ok) {
        const wait = this.refused(await refusal(answer));
        return wait === null ? undefined : this.again(wait, of);
      }
      ask.abort();
      if (isOpen) return undefined;
      this.broken("the server closed the connection; trying again");
    } catch {
      if (isOpen || this.connection !== of) return undefined;
      this.broken("the server does not answer; trying again");
    }
    return this.again(later(), of);
  }
}

class EventStream extends Client {
  lines() {
    return `const source = new EventSource("${this.address("/sse")}");
source.onmessage = (event) => console.log(event.lastEventId, event.data);
source.addEventListener("ringcast.gap", (event) => console.log("lost", event.data));`;
  }

  open() {
    const url = "/sse?" + this.query() + (this.id ? "&last_event_id=" + this.id : "");
    const source = this.connection = new EventSource(url);
    const on = (name, take) => source.addEventListener(name, (event) => source === this.connection && take(JSON.parse(event.data), event.lastEventId));
    on("message", (told, id) => this.event(id, told.channel, told.data));
    // A stream that is refused has a bye instead of a hello.
    on("ringcast.hello", (hello) => { this.opened(); this.begins(hello.id); });
    on("ringcast.gap", () => this.gap());
    on("ringcast.end", ({ channel }) => this.end(channel));
    on("ringcast.bye", (goodbye) => this.bye(goodbye));
    source.onerror = () => {
      if (source !== this.connection) return;
      this.leave();
      // The browser tries again by itself, unless the answer was an error.
      if (source.readyState === EventSource.CLOSED) this.why(url, source);
      else if (!this.goodbye) this.broken("the connection broke; the browser tries again");
      else if (FINAL.has(this.goodbye.code)) this.refused({ ...this.goodbye, message: this.goodbye.reason });
      this.goodbye = null;
    };
  }

  close() { this.connection?.close(); this.connection = null; }
}

class Socket extends Client {
  lines() {
    return `const socket = new WebSocket("${this.address("/ws").replace(/^http/, "ws")}");
socket.onmessage = (event) => console.log(JSON.parse(event.data));
socket.onopen = () => socket.send(JSON.stringify({ send: { chat: "hello" } }));`;
  }

  open() {
    const url = location.origin.replace(/^http/, "ws") + "/ws?" + this.query() + (this.id ? "&last_event_id=" + this.id : "");
    const socket = this.connection = new WebSocket(url);
    const ask = "/poll?" + this.query() + "&wait=0";
    let isOpen = false;
    this.goodbye = null;
    // A server that waits for a token first says nothing.
    socket.onopen = async () => { await pause(1000); if (!isOpen && socket === this.connection && socket.readyState === WebSocket.OPEN) this.why(ask, socket, true); };
    socket.onmessage = (event) => {
      if (socket !== this.connection) return;
      const told = JSON.parse(event.data);
      if (told.hello) { isOpen = true; this.opened(); this.begins(told.hello.id); }
      if (told.id && told.channel) this.event(told.id, told.channel, told.data);
      if (told.gap) this.gap();
      if (told.end) this.end(told.end.channel);
      if (told.bye) this.bye(told.bye);
      if (told.error) this.row("error", told.error.message, "note");
    };
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.connection) return;
      this.leave();
      const said = this.goodbye;
      if (said) return FINAL.has(said.code) ? this.refused({ ...said, message: said.reason }) : this.again(said.retry_ms ?? later(), socket);
      if (!isOpen && !reason) return this.why(ask, socket);
      // The server will not change its mind: the client is to blame (RFC 6455 §7.4.1).
      if (code === 1008) return this.stop("refused", "bad", `${reason || "the server closed the connection"} (${code})`, "refused");
      this.broken(reason ? `${reason} (${code}); trying again` : `the connection broke (${code}); trying again`);
      return this.again(later(), socket);
    };
  }

  close() { const socket = this.connection; this.connection = null; socket?.close(); }
}

class LongPoll extends Client {
  lines() {
    return `const url = "${this.address("/poll")}"; let answer = await (await fetch(url + "&wait=0")).json();
for (;; answer = await (await fetch(url + "&after=" + answer.next)).json())
  for (const event of answer.events) console.log(event.id, event.channel, event.data);`;
  }

  async open() {
    const poll = this.connection = new AbortController();
    for (let isOpen = false; this.connection === poll;) {
      let wait;
      try {
        // The first poll of all only asks for the position.
        const answer = await fetch(`/poll?${this.query()}${this.id ? "&after=" + this.id : ""}&wait=${this.id && isOpen ? 25 : 0}`, { signal: poll.signal });
        if (answer.status === 204) return this.over();
        if (answer.ok) { this.take(await answer.json(), !isOpen); isOpen = true; continue; }
        wait = this.refused(await refusal(answer));
        if (wait === null) return undefined;
      } catch {
        if (poll.signal.aborted) return undefined;
        this.broken("the server does not answer; trying again");
        wait = later();
      }
      isOpen = false;
      await pause(wait);
    }
    return undefined;
  }

  take(body, isFirst) {
    if (isFirst) this.opened();
    if (body.gap) this.gap();
    for (const event of body.events) this.event(event.id, event.channel, event.data);
    this.id = body.next;
    for (const channel of body.ended ?? []) if (!this.ended.has(channel)) this.end(channel);
  }

  close() { this.connection?.abort(); this.connection = null; }
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

const clients = [new EventStream("event stream"), new Socket("WebSocket"), new LongPoll("long poll")];
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
  for (const part of $("say").elements) part.disabled = !may;
  $("state").textContent = state;
  $("state").className = "pill " + kind;
}

async function talk() {
  const { connect } = await import("/ringcast.js");
  const own = connect("/");
  own.on("state", ({ name, transport, reason }) => {
    if (name === "open") mayTalk(transport === "ws", "live", "good");
    else if (name === "closed") mayTalk(false, "refused", "bad");
    else mayTalk(false, "not connected", "warn");
    $("said").textContent = reason && reason.message !== reason.code ? reason.message : "";
  });
  own.on("message", ({ chat, message }) => {
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
for (const client of clients) client.start();
talk();
requestAnimationFrame(animate);
