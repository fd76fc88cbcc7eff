"use strict";
// Videos: the one that is looked at (`job` is its id), and all of this visit.
const LOOK_MS = 500;
let job, watching, looking = 0;

const OVER = new Set(["done", "failed", "cancelled"]);

function duration(seconds) {
  const whole = Math.max(1, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60), rest = Math.round((whole % 60) / 10) * 10;
  return rest && minutes < 10 ? `${minutes} min ${Math.min(rest, 50)} s` : `${minutes} min`;
}

function wordsOf(state) {
  if (state.state === "queued") return state.ahead ? `${state.ahead} before yours` : "Next";
  if (state.state === "failed") return state.reason;
  if (state.state === "done") return `${state.video_s.toFixed(1)} s`;
  if (!state.done) return "Loading the model and listening";
  if (state.frames && state.frames === state.num_frames) return "Finishing the file";
  return state.left_s === null ? "Making it" : `Making it, about ${duration(state.left_s)} left`;
}

// ------------------------------------------------------------------------------------ the one looked at

function clearVideo() {
  watching?.abort();
  watching = null;
  $("video").hidden = true;
  $("video").loop = false;
  $("video").removeAttribute("src");
  $("video").load();
}

// The video as it grows, with its sound. Resolves to whether it was shown to its end so.
async function showGrowing(id) {
  clearVideo();
  if (!canWatch()) return false;
  watching = new AbortController();
  return watch($("video"), `/api/jobs/${id}/stream`, watching.signal, () => {
    $("video").hidden = false;
    $("video").play().catch(() => {}); // the browser wants a click on the video first
  });
}

// What plays goes on; the finished file, which can be moved about in without a gap, takes over behind its end.
async function takeOver(id, watched) {
  const video = $("video");
  const whole = await watched;
  if (whole && !video.ended) await until(video, "ended");
  if (job !== id) return;
  const seconds = whole ? 0 : video.currentTime;
  video.hidden = false;
  video.loop = true;
  video.src = `/api/jobs/${id}/video`;
  video.currentTime = seconds;
  video.play().catch(() => {});
}

// Shows a video of this visit: while it is made, or finished.
function look(state) {
  job = state.id;
  $("work").hidden = false;
  const watched = OVER.has(state.state) ? (clearVideo(), false) : showGrowing(job);
  showState(state, watched);
  return follow(state.id, watched);
}

async function follow(id, watched) {
  while (job === id) {
    const state = await ask(`/api/jobs/${id}`);
    if (job !== id) return;
    showState(state, watched);
    if (state.state === "done") { takeOver(id, watched); return; }
    if (OVER.has(state.state)) {
      leave();
      throw Object.assign(new Error(state.reason || "Cancelled."), { field: state.field });
    }
    await new Promise((done) => setTimeout(done, LOOK_MS));
  }
}

function showState(state) {
  const done = state.state === "done", bar = $("bar");
  $("going").hidden = done;
  $("made").hidden = !done;
  if (state.frames) bar.value = state.frames / state.num_frames; else bar.removeAttribute("value");
  $("work-title").textContent = `Your video: ${state.portrait}, ${state.audio}`;
  if (!done && $("words").textContent !== wordsOf(state)) $("words").textContent = wordsOf(state);
  $("download").href = `/api/jobs/${state.id}/video?download=1`;
  $("warnings").replaceChildren(...state.warnings.map((text) => element("li", { textContent: text })));
}

function leave() {
  job = null;
  $("work").hidden = true;
  clearVideo();
}

async function remove(id = job) {
  if (id === job) leave();
  if (id) await ask(`/api/jobs/${id}`, { method: "DELETE" }).catch(complain);
  await showVideos();
}

// ------------------------------------------------------------------------------------------ this visit's

function entryOf(state) {
  const done = state.state === "done", name = `${state.portrait}, ${state.audio}`;
  const entry = element("li", { id: `video-${state.id}` });
  if (done) entry.append(Object.assign(element("video", { src: `/api/jobs/${state.id}/video#t=0.5`, muted: true, preload: "metadata", tabIndex: -1 }), { ariaHidden: "true" }));
  entry.append(element("p", {}, element("b", { textContent: name }), ` ${wordsOf(state)}`));
  const buttons = element("div", { className: "buttons" });
  const press = (text, act) => {
    const button = element("button", { type: "button", textContent: text });
    button.setAttribute("aria-label", `${text}: ${name}`);
    button.addEventListener("click", act);
    buttons.append(button);
  };
  if (state.state !== "failed") press(done ? "Show" : "Watch", () => { look(state).catch(complain); $("work").scrollIntoView({ block: "nearest" }); });
  press(OVER.has(state.state) ? "Delete" : "Cancel", () => remove(state.id));
  entry.append(buttons);
  return entry;
}

// Draws those that have changed, so that what is read or pressed stays; goes on while some are being made.
async function showVideos() {
  const round = ++looking;
  for (;;) {
    const states = await ask("/api/jobs");
    if (round !== looking) return states;
    draw(states);
    if (states.every((state) => OVER.has(state.state))) return states;
    await new Promise((done) => setTimeout(done, 2 * LOOK_MS));
  }
}

function draw(states) {
  const list = $("videos"), ids = new Set(states.map((state) => `video-${state.id}`));
  for (const old of [...list.children]) if (!ids.has(old.id)) old.remove();
  for (const state of states) {
    const look = JSON.stringify([state.state, wordsOf(state)]), old = $(`video-${state.id}`);
    if (old?.dataset.look === look) continue;
    const entry = entryOf(state);
    entry.dataset.look = look;
    if (old?.dataset.look && JSON.parse(old.dataset.look)[0] === state.state) old.querySelector("p").replaceWith(entry.querySelector("p")), old.dataset.look = look;
    else if (old) old.replaceWith(entry);
    else list.prepend(entry);
  }
  $("gallery").hidden = !states.length;
}
