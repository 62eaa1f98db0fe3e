// The next round number: 1, 2 or 5 times a power of ten, within a unit of `base`.
function roundUp(value, base) {
  let unit = 1;
  while (value / unit >= base) unit *= base;
  return unit * [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000].find((step) => step >= value / unit);
}

// A line of the last minute. It grows from the right edge, names its scale, and tells the value under the pointer or, with
// the arrow keys, under the cursor.
class Chart {
  static SPAN = 60;

  constructor(host, name, format, base = 1000) {
    Object.assign(this, { host, name, format, base, points: [], picked: null });
    host.className = "chart";
    host.tabIndex = 0;
    host.setAttribute("role", "img");
    host.innerHTML = `<div class="scale"><span class="top"></span></div>
      <svg viewBox="0 0 600 100" preserveAspectRatio="none" aria-hidden="true"><line class="grid" x1="0" x2="600" y1="1" y2="1"/><line class="grid" x1="0" x2="600"
      y1="99" y2="99"/><path class="area"/><path class="line"/><line class="cursor" y1="0" y2="100" visibility="hidden"/></svg>
      <div class="scale"><span>${Chart.SPAN} s ago</span><span>now</span></div><div class="tip" hidden></div>`;
    for (const part of ["top", "area", "line", "cursor", "tip"]) this[part] = host.querySelector("." + part);
    host.onpointermove = (event) => {
      const box = host.getBoundingClientRect();
      this.pick((event.clientX - box.left) / box.width);
    };
    host.onpointerleave = host.onblur = () => this.pick(null);
    host.onfocus = () => host.matches(":focus-visible") && this.pick(1);
    host.onkeydown = (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || !this.points.length) return;
      event.preventDefault();
      const at = this.nearest(this.picked ?? 1) + step;
      this.pick(this.place(this.points[Math.min(Math.max(at, 0), this.points.length - 1)]));
    };
  }

  // The place of a point between the left edge, 0, and the right edge, 1.
  place(point) { return 1 - (this.now - point.at) / Chart.SPAN; }

  nearest(place) {
    let best = 0;
    this.points.forEach((point, i) => { if (Math.abs(this.place(point) - place) < Math.abs(this.place(this.points[best]) - place)) best = i; });
    return best;
  }

  clear() { this.points = []; this.pick(null); this.draw(); }

  add(value) {
    this.now = performance.now() / 1000;
    this.points.push({ at: this.now, value });
    while (this.place(this.points[0]) < 0) this.points.shift();
    this.draw();
  }

  draw() {
    const most = Math.max(0, ...this.points.map((point) => point.value));
    const top = roundUp(Math.max(most, this.base === 1024 ? 1024 : 1), this.base);
    this.top.textContent = this.format(top);
    const spots = this.points.map((point) => `${(600 * this.place(point)).toFixed(1)} ${(99 - 98 * point.value / top).toFixed(1)}`);
    this.line.setAttribute("d", spots.length ? "M" + spots.join("L") : "");
    this.area.setAttribute("d", spots.length ? `M${spots[0].split(" ")[0]} 99L${spots.join("L")}L600 99Z` : "");
    const last = this.points.at(-1);
    this.host.setAttribute("aria-label", last ? `${this.name}: ${this.format(last.value)} now, ${this.format(most)} at most in the last minute` : this.name);
    this.tell();
  }

  pick(place) { this.picked = place; this.tell(); }

  tell() {
    const shown = this.picked !== null && this.points.length > 0;
    this.tip.hidden = !shown;
    this.cursor.setAttribute("visibility", shown ? "visible" : "hidden");
    if (!shown) return;
    const point = this.points[this.nearest(this.picked)], place = this.place(point);
    this.cursor.setAttribute("x1", 600 * place);
    this.cursor.setAttribute("x2", 600 * place);
    const age = Math.round(this.now - point.at);
    this.tip.textContent = this.format(point.value) + (age ? `, ${age} s ago` : ", now");
    this.tip.style.left = `${Math.min(Math.max(place, .14), .86) * 100}%`;
  }
}
