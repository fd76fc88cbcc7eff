"use strict";
// Clips beside their truth and beside other generators', from the data that the page holds.
const data = JSON.parse(document.getElementById("clips-data").textContent);
const view = document.getElementById("player");
const PAGE = 8, DRIFT_S = 0.08;
let shown = 0;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function number(value) {
  return value === 0 || Math.abs(value) >= 1e-12 ? String(Number(value.toPrecision(4))) : "0";
}

// ------------------------------------------------------------------------- which, in which order

const order = make("select", { id: "order", onchange: render }, make("option", { value: "" }, "name"));
for (const scorer of data.scorers) {
  const [low, high] = { higher: ["worst", "best"], lower: ["best", "worst"] }[scorer.better] || ["lowest", "highest"];
  for (const [way, end] of [["rising", low], ["falling", high]]) {
    order.append(make("option", { value: `${way} ${scorer.name}` }, `${scorer.name}, ${end} first`));
  }
}
const search = make("input", { type: "search", id: "search", placeholder: "part of a name", oninput: render });
const boxes = data.generators.map((name, index) =>
  make("input", { type: "checkbox", id: `by-${index}`, checked: true, onchange: render }));
const lost = make("input", { type: "checkbox", id: "lost", onchange: render });
const list = make("div"), more = make("button", { type: "button", id: "more", onclick: extend });
const count = make("p", { class: "dim", "aria-live": "polite" });

function label(box, text) {
  return make("label", { for: box.id }, box, ` ${text}`);
}

view.append(
  make("div", { class: "controls" },
    make("label", { for: "order" }, "Order by ", order),
    make("label", { for: "search" }, "Find ", search),
    ...(data.generators.length > 1 ? boxes.map((box, index) => label(box, data.generators[index])) : []),
    label(lost, "only those without a score")),
  count, list, more);

function visible(item) {
  const chosen = new Set(data.generators.filter((_, index) => boxes[index].checked));
  return item.clips.filter((clip) =>
    chosen.has(clip.generator) && (!lost.checked || Object.keys(clip.lost).length));
}

function key(item, rising) {
  const values = visible(item).map((clip) => clip.scores[chosen()]).filter((value) => value !== undefined);
  if (!values.length) return null;
  return rising ? Math.min(...values) : Math.max(...values);
}

function ordered() {
  const words = search.value.toLowerCase();
  const found = data.items.filter((item) =>
    item.name.toLowerCase().includes(words) && visible(item).length);
  if (!order.value) return found;
  const rising = order.value.startsWith("rising ");
  const keys = new Map(found.map((item) => [item, key(item, rising)]));
  return found.sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return rising ? x - y : y - x;
  });
}

function chosen() {
  return order.value.slice(order.value.indexOf(" ") + 1);
}

// ------------------------------------------------------------------------------------ one sample

function player(source, title) {
  const video = make("video", {
    src: `${source}#t=0.001`, preload: "none", playsinline: true, "aria-label": title, tabindex: "0",
  });
  video.muted = true;
  video.addEventListener("error", () =>
    video.replaceWith(make("p", { class: "bad" }, "This browser cannot play it.")));
  return video;
}

function figure(source, title, clip) {
  if (!source) return make("figure", {}, make("p", { class: "bad" }, "no video"), make("figcaption", {}, title));
  const lines = Object.entries(clip ? clip.scores : {}).map(([name, value]) =>
    make("span", { class: name === chosen() ? "chosen" : null }, `${name} ${number(value)}`));
  const reasons = Object.entries(clip ? clip.lost : {}).map(([name, why]) =>
    make("span", { class: "bad" }, `${name}: ${why}`));
  return make("figure", {}, player(source, title),
    make("figcaption", {}, make("a", { href: source }, title), ...lines, ...reasons));
}

function card(item) {
  const clips = visible(item);
  const figures = clips.map((clip) => figure(clip.source, clip.generator || "clip", clip));
  if (item.truth) figures.unshift(figure(item.truth, "truth", null));
  const names = [...(item.truth ? ["truth"] : []), ...clips.map((clip) => clip.generator || "clip")];
  const seek = make("input", { type: "range", min: "0", max: "1000", value: "0", "aria-label": `place in ${item.name}` });
  const play = make("button", { type: "button" }, "Play");
  const sound = make("select", { "aria-label": `sound of ${item.name}` },
    ...names.map((name, index) => make("option", { value: index }, `sound: ${name}`)));
  sound.value = String(item.truth && names.length > 1 ? 1 : 0);
  const row = make("div", { class: "row" }, ...figures);
  const section = make("section", { class: "item" }, make("h3", {}, item.name),
    make("div", { class: "transport" }, play, seek, sound), row);
  connect(section, row, play, seek, sound);
  watcher.observe(section);
  return section;
}

// All videos of a card follow the longest of them, which alone begins anew at its end.
function connect(section, row, play, seek, sound) {
  const videos = () => [...row.querySelectorAll("video")];
  const longest = () => videos().reduce((a, b) => ((b.duration || 0) > (a.duration || 0) ? b : a));

  function listen() {
    const figures = [...row.children];
    videos().forEach((video) => { video.muted = figures.indexOf(video.parentElement) !== Number(sound.value); });
  }
  function place(time_s) {
    videos().forEach((video) => { video.currentTime = Math.min(time_s, video.duration || 0); });
  }
  function follow() {
    if (section.dataset.playing !== "1" || !videos().length) return;
    const lead = longest();
    for (const video of videos()) {
      const over = lead.currentTime >= video.duration;
      if (video === lead || (over && video.ended)) continue;
      if (!over && video.paused) video.play().catch(() => {});
      if (Math.abs(video.currentTime - lead.currentTime) > DRIFT_S && !over) video.currentTime = lead.currentTime;
    }
    seek.value = String(1000 * lead.currentTime / (lead.duration || 1));
    requestAnimationFrame(follow);
  }
  function stop() {
    section.dataset.playing = "0";
    videos().forEach((video) => video.pause());
    play.textContent = "Play";
  }
  async function start() {
    stopAll();
    listen();
    section.dataset.playing = "1";
    play.textContent = "Pause";
    await Promise.all(videos().map(ready));
    if (section.dataset.playing !== "1" || !videos().length) return stop();
    const lead = longest();
    videos().forEach((video) => { video.loop = video === lead; });
    place(lead.currentTime);
    await Promise.allSettled(videos().map((video) => video.play()));
    requestAnimationFrame(follow);
  }
  section.stop = stop;
  play.addEventListener("click", () => (section.dataset.playing === "1" ? stop() : start()));
  seek.addEventListener("input", async () => {
    await Promise.all(videos().map(ready));
    if (videos().length) place(seek.value / 1000 * (longest().duration || 0));
  });
  sound.addEventListener("change", listen);
}

function ready(video) {
  if (video.readyState >= 2) return Promise.resolve();
  return new Promise((resolve) => {
    for (const name of ["loadeddata", "error"]) video.addEventListener(name, resolve, { once: true });
    video.preload = "auto";
    video.load();
  });
}

function stopAll() {
  document.querySelectorAll("section[data-playing='1']").forEach((section) => section.stop());
}

// First frames are fetched when a sample comes into sight.
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    entry.target.querySelectorAll("video").forEach((video) => { video.preload = "metadata"; });
    watcher.unobserve(entry.target);
  }
}, { rootMargin: "400px" });

function render() {
  stopAll();
  list.replaceChildren();
  shown = 0;
  extend();
}

function extend() {
  const found = ordered();
  list.append(...found.slice(shown, shown + PAGE).map(card));
  shown = Math.min(shown + PAGE, found.length);
  count.textContent = `${found.length} of ${data.items.length} samples`;
  more.hidden = found.length <= shown;
  more.textContent = `Show ${Math.min(PAGE, found.length - shown)} more`;
}

render();
