"use strict";
// Clips beside their truth and beside other generators', from the data that the page holds.
const data = JSON.parse(document.getElementById("clips-data").textContent);
const view = document.getElementById("viewer");
const PAGE = 8, DRIFT_S = 0.08;
let shown = PAGE;

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

// ------------------------------------------------------------------------------------------- which, in which order

const order = make("select", { id: "order", onchange: draw }, make("option", { value: "" }, "name"));
for (const scorer of data.scorers) {
  for (const end of ["worst", "best"]) {
    order.append(make("option", { value: `${end} ${scorer.name}` }, `${scorer.name}, ${end} first`));
  }
}
const search = make("input", { type: "search", id: "search", placeholder: "part of a name", oninput: draw });
const boxes = data.generators.map((name, index) =>
  make("input", { type: "checkbox", id: `by-${index}`, checked: true, onchange: draw }));
const lost = make("input", { type: "checkbox", id: "lost", onchange: draw });
const list = make("div"), more = make("button", { type: "button", onclick: () => { shown += PAGE; render(); } });
const count = make("p", { class: "dim", "aria-live": "polite" });

function label(box, text) {
  return make("label", { for: box.id }, box, ` ${text}`);
}

view.append(
  make("div", { class: "controls" },
    make("label", { for: "order" }, "Order by ", order), make("label", { for: "search" }, "Find ", search),
    ...(data.generators.length > 1 ? boxes.map((box, index) => label(box, data.generators[index])) : []),
    label(lost, "only those without a score")),
  count, list, more);

function visible(item) {
  const chosen = new Set(data.generators.filter((_, index) => boxes[index].checked));
  return item.clips.filter((clip) => chosen.has(clip.generator) && (!lost.checked || Object.keys(clip.lost).length));
}

function key(item, scorer, worst) {
  const values = visible(item).map((clip) => clip.scores[scorer.name]).filter((value) => value !== undefined);
  if (!values.length) return null;
  return (scorer.better === "higher") === worst ? Math.min(...values) : Math.max(...values);
}

function ordered() {
  const words = search.value.toLowerCase();
  const found = data.items.filter((item) => item.name.toLowerCase().includes(words) && visible(item).length);
  if (!order.value) return found;
  const worst = order.value.startsWith("worst ");
  const scorer = data.scorers.find((one) => one.name === order.value.slice(order.value.indexOf(" ") + 1));
  const rising = (scorer.better === "higher") === worst;
  const keys = new Map(found.map((item) => [item, key(item, scorer, worst)]));
  return found.sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return rising ? x - y : y - x;
  });
}

// ------------------------------------------------------------------------------------------------------ one sample

function player(source, title) {
  const video = make("video", {
    src: `${source}#t=0.001`, preload: "none", playsinline: true, loop: true, "aria-label": title, tabindex: "0",
  });
  video.muted = true;
  video.addEventListener("error", () => video.replaceWith(make("p", { class: "bad" }, "This browser cannot play it.")));
  return video;
}

function figure(source, title, clip, chosen) {
  if (!source) return make("figure", {}, make("p", { class: "bad" }, "no video"), make("figcaption", {}, title));
  const lines = Object.entries(clip ? clip.scores : {}).map(([name, value]) =>
    make("span", { class: name === chosen ? "chosen" : null }, `${name} ${number(value)}`));
  const reasons = Object.entries(clip ? clip.lost : {}).map(([name, why]) =>
    make("span", { class: "bad" }, `${name}: ${why}`));
  return make("figure", {}, player(source, title),
    make("figcaption", {}, make("a", { href: source }, title), ...lines, ...reasons));
}

function card(item) {
  const chosen = order.value.slice(order.value.indexOf(" ") + 1);
  const clips = visible(item);
  const figures = clips.map((clip) => figure(clip.source, clip.generator || "clip", clip, chosen));
  if (item.truth) figures.unshift(figure(item.truth, "truth", null, chosen));
  const videos = () => [...row.querySelectorAll("video")];
  const seek = make("input", { type: "range", min: "0", max: "1000", value: "0", "aria-label": `place in ${item.name}` });
  const play = make("button", { type: "button" }, "Play");
  const sound = make("select", { "aria-label": `sound of ${item.name}` });
  const names = [...(item.truth ? ["truth"] : []), ...clips.map((clip) => clip.generator || "clip")];
  names.forEach((name, index) => sound.append(make("option", { value: index }, `sound: ${name}`)));
  sound.value = String(item.truth && names.length > 1 ? 1 : 0);
  const row = make("div", { class: "row" }, ...figures);
  const section = make("section", { class: "item" }, make("h3", {}, item.name),
    make("div", { class: "transport" }, play, seek, sound), row);

  function listen() {
    const figuresNow = [...row.children];
    videos().forEach((video) => { video.muted = figuresNow.indexOf(video.parentElement) !== Number(sound.value); });
  }
  function longest() {
    return Math.max(0.001, ...videos().map((video) => video.duration || 0));
  }
  function follow() {
    const [first, ...others] = videos();
    if (!first || section.dataset.playing !== "1") return;
    for (const video of others) {
      if (!video.ended && Math.abs(video.currentTime - first.currentTime) > DRIFT_S
          && first.currentTime < (video.duration || Infinity)) video.currentTime = first.currentTime;
    }
    seek.value = String(1000 * first.currentTime / longest());
    requestAnimationFrame(follow);
  }
  function stop() {
    section.dataset.playing = "0";
    videos().forEach((video) => video.pause());
    play.textContent = "Play";
  }
  play.addEventListener("click", async () => {
    if (section.dataset.playing === "1") return stop();
    document.querySelectorAll("section[data-playing='1'] .transport button").forEach((button) => button.click());
    listen();
    const all = videos();
    await Promise.all(all.map(ready));
    all.forEach((video) => { video.currentTime = Math.min(all[0].currentTime, video.duration || 0); });
    section.dataset.playing = "1";
    play.textContent = "Pause";
    await Promise.allSettled(all.map((video) => video.play()));
    requestAnimationFrame(follow);
  });
  seek.addEventListener("input", async () => {
    const all = videos();
    await Promise.all(all.map(ready));
    const place = seek.value / 1000 * longest();
    all.forEach((video) => { video.currentTime = Math.min(place, video.duration || 0); });
  });
  sound.addEventListener("change", listen);
  return section;
}

function ready(video) {
  if (video.readyState >= 2) return Promise.resolve();
  return new Promise((resolve) => {
    for (const name of ["loadeddata", "error"]) video.addEventListener(name, resolve, { once: true });
    video.preload = "auto";
    video.load();
  });
}

// First frames are fetched when a sample comes into sight.
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    entry.target.querySelectorAll("video").forEach((video) => { video.preload = "metadata"; });
    watcher.unobserve(entry.target);
  }
}, { rootMargin: "400px" });

function draw() {
  shown = PAGE;
  render();
}

function render() {
  const found = ordered();
  list.replaceChildren(...found.slice(0, shown).map(card));
  list.querySelectorAll("section").forEach((section) => watcher.observe(section));
  count.textContent = `${found.length} of ${data.items.length} samples`;
  more.hidden = found.length <= shown;
  more.textContent = `Show ${Math.min(PAGE, found.length - shown)} more`;
}

render();
