// The page of one channel or one connection, for as long as the address names it.
let leave = new AbortController();

function route() {
  leave.abort();
  leave = new AbortController();
  const [kind, encoded = ""] = location.hash.slice(1).split("/");
  let name = encoded;
  try { name = decodeURIComponent(encoded); } catch { /* typed by hand, as it is */ }
  const views = { channel: channelView, connection: connectionView };
  const shown = may.see && name && views[kind];
  $("overview").hidden = Boolean(shown);
  $("detail").hidden = !shown;
  if (shown) shown(name, leave.signal);
}

function element(kind, properties = {}, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

// Does something now and again in turns of `ms`, until the page is left or it returns false.
async function every(ms, signal, work) {
  while (!signal.aborted) {
    try { if (await work() === false) return; } catch (error) { if (!signal.aborted) tell(error.message, true); }
    await new Promise((go) => setTimeout(go, ms));
  }
}

// The frame of a page: the way back, the title, what can be done, and the parts.
function frame(kind, name, verb, onKick, ...parts) {
  const kick = element("button", { type: "button", className: "danger push", id: "kick", textContent: verb, onclick: onKick, hidden: !may.change });
  const title = element("div", { className: "title" }, element("a", { href: "#", textContent: "← overview" }), element("h2", { id: "title", textContent: name }),
    element("span", { id: "kind", className: "pill", textContent: kind }), kick);
  tell("");
  $("detail").replaceChildren(title, ...parts);
  scrollTo(0, 0);
}

function card(title, ...children) { return element("section", { className: "card" }, element("h2", { textContent: title }), ...children); }

// A card with a figure, a note and a chart.
function figure(title, format, base) {
  const big = element("div", { className: "big", textContent: "–" }), note = element("div", { className: "note" }), line = element("div");
  const chart = new Chart(line, title, format, base);
  return { card: card(title, big, note, line), set(value, text) { write(note, text); if (value === null) return; write(big, format(value)); chart.add(value); } };
}

// Lines as they happen, the newest first.
function traceList(title, none) {
  const list = element("ol", { className: "trace", id: "trace", tabIndex: 0, ariaLabel: title });
  const hold = element("button", { type: "button", className: "small push", textContent: "hold", onclick: () => { held = !held; hold.textContent = held ? "go on" : "hold"; } });
  let held = false;
  const empty = element("li", {}, element("span", { className: "dim", textContent: none }));
  list.append(empty);
  const add = (ms, what, text) => {
    if (held) return;
    empty.remove();
    const stamp = new Date(ms).toLocaleTimeString([], { hour12: false, hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });
    list.prepend(element("li", {}, element("time", { textContent: stamp }), element("b", { textContent: what }), element("span", { textContent: text, title: text })));
    while (list.children.length > 200) list.lastChild.remove();
  };
  return { card: element("section", { className: "card" }, element("div", { className: "row" }, element("h2", { textContent: title }), hold), list), add };
}

async function kick(target, who, ended) {
  const reason = await sure(`Kick ${who}?`, "Whoever is disconnected is told the reason, and may connect again.", "kick", true);
  if (reason === null) return "";
  const { kicked } = await send("POST", "v1/kick", { ...target, ...reason && { reason } });
  ended?.();
  return `${kicked} ${kicked === 1 ? "connection was" : "connections were"} ended.`;
}

// A channel among those by its name; the list comes in pages, some of which may be empty.
async function findChannel(name, signal) {
  for (let cursor = 0, pages = 0; cursor !== null && pages < 20; pages++) {
    const page = await get(`v1/channels?prefix=${encodeURIComponent(name)}&cursor=${cursor}&limit=100`, { signal });
    const found = page.channels.find((channel) => channel.channel === name);
    if (found) return found;
    cursor = page.cursor;
  }
  return null;
}

function channelView(name, signal) {
  const subscribers = figure("Subscribers", count), rate = figure("Events a second", count), history = figure("History", bytes, 1024);
  const rows = element("table", { id: "subscribers" });
  const trace = traceList("Events as they are published", "waits for the next event");
  frame("channel", name, "kick all", () => attempt(() => kick({ channel: name }, `all subscribers of ${name}`)),
    element("div", { className: "figures" }, subscribers.card, rate.card, history.card),
    card("Subscribers, furthest behind first", element("div", { className: "scroll" }, rows)), trace.card);
  let seen = 0, before = 0;
  every(1000, signal, async () => {
    const [info, list] = await Promise.all([findChannel(name, signal), get(`v1/connections?channel=${encodeURIComponent(name)}&order=slowest&limit=50`, { signal })]);
    if (signal.aborted) return;
    const now = performance.now();
    subscribers.set(list.matched, list.matched > 50 ? "the 50 furthest behind are listed" : "");
    rate.set(before ? 1000 * seen / (now - before) : null, info ? `${count(info.events_per_second)} on the average of the last seconds` : "");
    history.set(info?.history_bytes ?? 0, info ? `${count(info.history_events)} events${info.ended ? ", and the channel has ended" : ""}` : "the server does not know this channel");
    [seen, before] = [0, now];
    const own = (c) => c.channels.find((channel) => channel.channel === name)?.lag_bytes ?? 0;
    table(rows, ["connection", "", "from", "behind here", "behind", "waits", "events", "open for"], list.connections.map((c) => [connectionLink(c.conn), c.user ? `${c.transport}, ${c.user}` : c.transport, c.address,
      { text: bytes(own(c)), hot: c.blocked }, bytes(c.lag_bytes), bytes(c.waiting_bytes), count(c.events), time(c.age_ms)]), "nobody subscribes");
  });
  every(1500, signal, async () => {
    for await (const { name: kind, data } of streamed(`v1/channels/${encodeURIComponent(name)}/trace`, { signal })) {
      if (kind === "lost") { seen += data.count; trace.add(Date.now(), "…", `${data.count} events came too fast to be shown`); }
      if (kind !== "message") continue;
      seen++;
      const text = "bytes" in data ? `${bytes(data.bytes)}, too long to be shown` : typeof data.data === "string" ? data.data : JSON.stringify(data.data ?? data.data_b64);
      trace.add(Number(data.id.split("-")[0]), data.event ?? "event", text);
    }
  });
}

function connectionView(name, signal) {
  const lag = figure("Behind", bytes, 1024), rate = figure("Events a second", count), trip = figure("Round trip", micros);
  const facts = element("dl", { id: "facts" }), tcp = element("dl", { id: "tcp" }), rows = element("table", { id: "cursors" });
  const trace = traceList("What happens on this connection", "nothing has happened yet");
  let before = null, isOver = false;
  const over = (text) => {
    isOver = true;
    write($("kind"), "ended");
    $("kind").className = "pill";
    $("kick").hidden = true;
    trace.add(Date.now(), "end", text);
  };
  frame("connection", name, "kick", () => attempt(() => kick({ conn: name }, `connection ${name}`, () => over("kicked from this page"))),
    element("div", { className: "figures" }, lag.card, rate.card, trip.card),
    element("div", { className: "lists narrow" }, card("Channels and cursors", element("div", { className: "scroll" }, rows)), card("Connection", facts), card("TCP, as the kernel sees it", tcp)), trace.card);
  every(1000, signal, async () => {
    if (isOver) return false;
    let found;
    try { found = (await get("v1/connections/" + encodeURIComponent(name), { signal })).connection; } catch (error) {
      if (error.status !== 404 || isOver) throw error;
      over("there is no such connection any more");
      return false;
    }
    if (signal.aborted) return;
    const at = performance.now();
    showConnection(found, { lag, rate, trip, facts, tcp, rows }, before, at);
    if (before) changes(before.found, found).forEach(([what, text]) => trace.add(Date.now(), what, text));
    before = { found, at };
  });
}

function showConnection(found, parts, before, at) {
  const { tcp = {} } = found;
  parts.lag.set(found.lag_bytes, found.blocked ? "the kernel has no room for more" : found.replaying ? "missed events are being sent" : found.lag_bytes ? "about to be sent" : "up to date");
  parts.rate.set(before && 1000 * (found.events - before.found.events) / (at - before.at), `${count(found.events)} in all`);
  parts.trip.set(tcp.rtt_us ?? null, tcp.rtt_us === undefined ? "this is no TCP connection" : `± ${micros(tcp.rtt_deviation_us)}`);
  list(parts.facts, [["transport", found.transport], ["from", found.address], ["user", found.user ?? "none"], ["open for", time(found.age_ms)], ["last bytes from it", time(found.silent_ms) + " ago"],
    ["last bytes to it", time(found.unsent_ms) + " ago"], ["waits to be sent", bytes(found.waiting_bytes)], ...found.token_expires_ms === undefined ? [] : [["token expires in", time(found.token_expires_ms)]]]);
  list(parts.tcp, Object.entries(tcp).map(([key, value]) => {
    const [, word, unit] = /^(.*?)(?:_(us|bytes))?$/.exec(key);
    return [word.replace("rtt", "round trip").replaceAll("_", " "), unit === "us" ? micros(value) : unit === "bytes" ? bytes(value) : count(value)];
  }));
  table(parts.rows, ["channel", "cursor", "behind"], found.channels.map((c) => [channelLink(c.channel), c.cursor ?? "–", { text: bytes(c.lag_bytes), hot: found.blocked && c.lag_bytes > 0 }]),
    found.channels_total ? "" : "no channels");
}

function list(element_, pairs) {
  if (element_.children.length !== 2 * pairs.length) element_.replaceChildren(...pairs.flatMap(([key]) => [element("dt", { textContent: key }), element("dd")]));
  pairs.forEach(([, value], i) => write(element_.children[2 * i + 1], value));
}

// What has changed between two looks at a connection.
function changes(old, now) {
  const said = [];
  const sent = now.events - old.events, cursors = new Map(old.channels.map((c) => [c.channel, c.cursor]));
  const moved = now.channels.filter((c) => c.cursor && c.cursor !== cursors.get(c.channel)).map((c) => `${c.channel} up to ${c.cursor}`);
  if (sent > 0) said.push(["sent", [`${sent} event${sent === 1 ? "" : "s"}`, ...moved].join(", ")]);
  if (now.lag_bytes !== old.lag_bytes) said.push(["lag", `${bytes(old.lag_bytes)} → ${bytes(now.lag_bytes)}`]);
  if (now.blocked !== old.blocked) said.push(["room", now.blocked ? "the kernel has no room for more" : "there is room again"]);
  if (now.replaying !== old.replaying) said.push(["resume", now.replaying ? "missed events are being sent" : "caught up"]);
  if (now.silent_ms < old.silent_ms) said.push(["heard", "bytes came from the client"]);
  if (now.channels_total !== old.channels_total) said.push(["channels", `${old.channels_total} → ${now.channels_total}`]);
  const lost = (now.tcp?.retransmitted ?? 0) - (old.tcp?.retransmitted ?? 0);
  if (lost > 0) said.push(["tcp", `${lost} segments sent again`]);
  return said;
}

addEventListener("hashchange", route);
run();
