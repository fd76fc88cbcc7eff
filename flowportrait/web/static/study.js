"use strict";
// One set at a time. What is rated but not yet saved lies in this browser, so that a closed page loses nothing.
const base = location.pathname.replace(/\/$/, "");
const NAMES = { lip_sync: "lip-sync", expressiveness: "expressiveness", motion: "motion" };
let study, task, clips, strictOrNot, startedAt;

// ------------------------------------------------------------------------------------------ what was played

function merged(spans) {
  const found = [];
  for (const [from, to] of [...spans].sort((a, b) => a[0] - b[0])) {
    const last = found.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else if (to > from) found.push([from, to]);
  }
  return found;
}

function played(clip) {
  const spans = clip.before.map((span) => [...span]);
  for (let i = 0; i < clip.video.played.length; i++) spans.push([clip.video.played.start(i), clip.video.played.end(i)]);
  return merged(spans);
}

function share(clip) {
  const seconds = played(clip).reduce((sum, [from, to]) => sum + Math.min(to, clip.duration_s) - Math.min(from, clip.duration_s), 0);
  return seconds >= clip.duration_s - study.unwatched_s ? 1 : seconds / clip.duration_s;
}

function showWatched(clip) {
  const seen = share(clip);
  clip.meter.value = seen;
  clip.note.textContent = seen === 1 ? "watched" : "watch it to the end to rate it";
  clip.fields.forEach((field) => { field.disabled = seen < 1; });
  if (seen === 1 && !clip.ready) { clip.ready = true; keep(); showState(); }
}

// --------------------------------------------------------------------------------------------------- a set

function grades(name, values, chosen, changed) {
  const row = element("div", { className: "grades" });
  for (const [value, words] of values) {
    const input = element("input", { type: "radio", name, value, checked: value === chosen });
    input.addEventListener("change", () => changed(value));
    row.append(element("label", { title: words }, input, element("span", { textContent: value || "–" })));
  }
  return row;
}

function ratingOf(clip, rubric) {
  const criteria = element("p", { className: "criteria" });
  const say = (score) => {
    const grade = rubric.grades.find((one) => one.score === Number(score));
    criteria.textContent = grade ? `${grade.score}, ${grade.guideline}: ${Object.values(grade.criteria).join(" ")}` : "";
  };
  const values = [...rubric.grades].reverse().map((grade) => [String(grade.score), grade.guideline]);
  const chosen = clip.scores[rubric.aspect];
  const row = grades(`${clip.id}-${rubric.aspect}`, values, chosen && String(chosen), (value) => {
    clip.scores[rubric.aspect] = Number(value);
    say(value); keep(); showState();
  });
  // What a grade means is read before it is chosen, too.
  row.addEventListener("pointerover", (event) => say(event.target.closest("label")?.querySelector("input").value));
  row.addEventListener("pointerleave", () => say(clip.scores[rubric.aspect]));
  say(chosen);
  const field = element("fieldset", { disabled: true }, element("legend", { textContent: rubric.title }), row, criteria);
  clip.fields.push(field);
  return field;
}

function cardOf(clip) {
  const card = $("clip").content.cloneNode(true).firstElementChild;
  card.querySelector("h2").textContent = clip.letter;
  clip.video = card.querySelector("video");
  clip.meter = card.querySelector("meter");
  clip.note = card.querySelector(".watched span");
  clip.video.src = `${base}/media/${clip.id}`;
  clip.video.setAttribute("aria-label", `Video ${clip.letter}`);
  clip.meter.setAttribute("aria-label", `How much of video ${clip.letter} was watched`);
  clip.video.addEventListener("play", () => clips.forEach((other) => other !== clip && other.video.pause()));
  clip.video.addEventListener("ratechange", () => { clip.video.playbackRate = 1; });
  for (const event of ["timeupdate", "pause", "ended"]) clip.video.addEventListener(event, () => showWatched(clip));
  clip.video.addEventListener("pause", keep);
  clip.video.addEventListener("error", () => fail(new Error(`Video ${clip.letter} does not play here. Load the page again, or try another browser.`)));
  card.append(...study.rubrics.map((rubric) => ratingOf(clip, rubric)));
  return card;
}

function placesOf(clip) {
  const values = [...clips.map((_, index) => [String(index + 1), `place ${index + 1}`]), ["", "left out"]];
  const row = grades(`place-${clip.id}`, values, clip.place, (value) => { clip.place = value; keep(); showState(); });
  return element("fieldset", {}, element("legend", { textContent: clip.letter }), row);
}

function groups() {
  return clips.map((_, index) => clips.filter((clip) => clip.place === String(index + 1))).filter((group) => group.length);
}

// A sign is said of two groups as they are: when either changes, it is ">" again. Kept are those that are not.
const pairOf = (above, below) => [above, below].map((group) => group.map((clip) => clip.id).sort().join("=")).join(">");

function signs() {
  const order = groups();
  return order.slice(1).map((below, index) => (strictOrNot.has(pairOf(order[index], below)) ? ">=" : ">"));
}

function signBetween(above, below, sign) {
  const [first, second] = [above, below].map((group) => group.map((clip) => clip.letter).join(" and "));
  const words = sign === ">" ? "better than" : "at least as good as";
  const button = element("button", { type: "button", className: "sign", textContent: sign === ">" ? ">" : "≥", title: `${first}: ${words} ${second}. Press to change.` });
  button.setAttribute("aria-label", button.title);
  button.addEventListener("click", () => {
    const pair = pairOf(above, below);
    if (!strictOrNot.delete(pair)) strictOrNot.add(pair);
    keep(); showState();
  });
  return button;
}

function showOrder() {
  const order = groups(), between = signs();
  // Drawn anew, the sign that was pressed keeps the keyboard's place.
  const here = [...$("ranking").querySelectorAll(".sign")].indexOf(document.activeElement);
  $("ranking").replaceChildren(...order.flatMap((group, index) => {
    const letters = element("span", { textContent: group.map((clip) => clip.letter).join(" = ") });
    return index ? [signBetween(order[index - 1], group, between[index - 1]), letters] : [letters];
  }));
  if (here >= 0) $("ranking").querySelectorAll(".sign")[here]?.focus();
  $("said").textContent = order.map((group, index) => (index ? (between[index - 1] === ">" ? ", better than " : ", at least as good as ") : "") + group.map((clip) => clip.letter).join(" and ")).join("");
}

function missing() {
  const unseen = clips.filter((clip) => !clip.ready).map((clip) => clip.letter);
  if (unseen.length) return `Still to be watched to the end: ${unseen.join(", ")}.`;
  for (const clip of clips) {
    const open = study.aspects.filter((aspect) => !clip.scores[aspect]).map((aspect) => NAMES[aspect] || aspect);
    if (open.length) return `Video ${clip.letter} has no score for ${open.join(", ")} yet.`;
  }
  const unplaced = clips.filter((clip) => clip.place === undefined).map((clip) => clip.letter);
  return unplaced.length ? `No place in the order yet: ${unplaced.join(", ")}.` : "";
}

function showState() {
  showOrder();
  const words = missing();
  $("missing").textContent = words;
  $("send").disabled = words !== "";
}

// ------------------------------------------------------------------------------------------- kept and sent

const draftName = (id) => `flowportrait:${base}:${id}`;

function remember(what, value) {
  try { localStorage.setItem(draftName(what), value); } catch { /* private windows keep nothing */ }
}

function remembered(what) {
  try { return localStorage.getItem(draftName(what)); } catch { return null; }
}

function keep() {
  if (!task) return;
  const draft = { comment: $("comment").value, clips: {}, signs: [...strictOrNot] };
  for (const clip of clips) draft.clips[clip.id] = { scores: clip.scores, place: clip.place, played: played(clip) };
  remember(task.id, JSON.stringify(draft));
}

function draftOf(id) {
  try { return JSON.parse(remembered(id)) || {}; } catch { return {}; }
}

function before(item) {
  const said = task.answer, draft = draftOf(task.id).clips?.[item.id];
  const place = said ? said.groups.findIndex((group) => group.includes(item.id)) : -1;
  const clip = said
    ? { scores: { ...said.scores[item.id] }, place: place < 0 ? "" : String(place + 1), before: said.played[item.id] || [] }
    : { scores: {}, place: undefined, before: [] };
  if (draft) Object.assign(clip, { scores: { ...clip.scores, ...draft.scores }, before: merged([...clip.before, ...draft.played]) });
  if (draft && draft.place !== undefined) clip.place = draft.place;
  return { ...item, ...clip, fields: [], ready: false };
}

function signsBefore() {
  const said = task.answer, draft = draftOf(task.id).signs;
  if (draft || !said) return new Set(draft);
  const group = (ids) => ids.map((id) => ({ id }));
  return new Set(said.between.flatMap((sign, index) => (sign === ">=" ? [pairOf(group(said.groups[index]), group(said.groups[index + 1]))] : [])));
}

function fail(error) {
  $("error").textContent = clips.reduce((text, clip) => text.replaceAll(`item ${clip.id}`, `video ${clip.letter}`), error.message);
  $("error").hidden = false;
}

async function send() {
  $("send").disabled = true;
  $("error").hidden = true;
  const body = {
    scores: Object.fromEntries(clips.map((clip) => [clip.id, clip.scores])),
    groups: groups().map((group) => group.map((clip) => clip.id)),
    between: signs(),
    played: Object.fromEntries(clips.map((clip) => [clip.id, played(clip)])),
    seconds: (performance.now() - startedAt) / 1000,
    comment: $("comment").value,
  };
  try {
    await ask(`${base}/task/${task.id}`, { method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  } catch (error) {
    fail(error);
    showState();
    return;
  }
  localStorage.removeItem(draftName(task.id));
  const here = study.tasks.find((one) => one.id === task.id);
  here.done = true;
  const after = study.tasks.slice(study.tasks.indexOf(here) + 1).find((one) => !one.done);
  await open(after || study.tasks.find((one) => !one.done));
}

async function open(which) {
  const fetched = which && await ask(`${base}/task/${which.id}`);
  clips?.forEach((clip) => { clip.video.pause(); clip.video.removeAttribute("src"); clip.video.load(); });
  task = fetched;
  const done = study.tasks.filter((one) => one.done).length;
  Object.assign($("progress"), { max: study.tasks.length, value: done });
  $("set").hidden = !task;
  $("done").hidden = Boolean(task);
  $("training").hidden = !task?.training;
  if (task) showSet();
  $("number").textContent = task ? `Set ${task.number} of ${task.total}` : "Done";
}

function showSet() {
  startedAt = performance.now();
  clips = task.items.map(before);
  strictOrNot = signsBefore();
  $("clips").replaceChildren(...clips.map(cardOf));
  $("places").replaceChildren(...clips.map(placesOf));
  $("comment").value = draftOf(task.id).comment ?? task.answer?.comment ?? "";
  $("back").disabled = task.number === 1;
  $("error").hidden = true;
  clips.forEach(showWatched);
  showState();
  scrollTo(0, 0);
}

function step(by) {
  keep();
  const index = task ? study.tasks.findIndex((one) => one.id === task.id) + by : study.tasks.length - 1;
  if (study.tasks[index]) open(study.tasks[index]).catch(stop);
}

// -------------------------------------------------------------------------------------------------- begin

function stop(error) {
  document.body.replaceChildren(element("main", { className: "plain" }, element("h1", { textContent: "This page cannot go on" }), element("p", { textContent: error.message })));
}

function showRubrics() {
  $("instructions-text").textContent = study.instructions;
  $("rubrics").replaceChildren(...study.rubrics.map((rubric) => {
    const list = element("dl");
    for (const grade of rubric.grades) {
      const words = Object.entries(grade.criteria).map(([name, text]) => `${name}: ${text}`).join(" ");
      list.append(element("dt", { textContent: `${grade.score}, ${grade.guideline}` }), element("dd", { textContent: words }));
    }
    return element("details", {}, element("summary", { textContent: rubric.title }), list);
  }));
}

function keys(event) {
  if ($("instructions").open || !task || event.altKey || event.metaKey) return;
  if (event.key === "Enter" && event.ctrlKey) { if (!$("send").disabled) send().catch(stop); return; }
  if (event.ctrlKey || event.target.matches("textarea")) return;
  const clip = clips.find((one) => one.letter === event.key.toUpperCase());
  if (clip) { clip.video.paused ? clip.video.play() : clip.video.pause(); event.preventDefault(); return; }
  const input = /^[1-9]$/.test(event.key) && event.target.closest?.(".grades")?.querySelector(`input[value="${event.key}"]`);
  if (input && !input.closest("fieldset").disabled) { input.focus(); input.click(); event.preventDefault(); }
}

async function begin() {
  study = await ask(`${base}/state`);
  showRubrics();
  $("help").addEventListener("click", () => $("instructions").showModal());
  $("close").addEventListener("click", () => $("instructions").close());
  $("instructions").addEventListener("close", () => remember("read", "yes"));
  $("send").addEventListener("click", () => send().catch(stop));
  $("back").addEventListener("click", () => step(-1));
  $("again").addEventListener("click", () => step(0));
  $("comment").addEventListener("input", keep);
  addEventListener("keydown", keys);
  addEventListener("pagehide", keep);
  await open(study.tasks.find((one) => !one.done));
  if (!remembered("read") && !study.tasks.some((one) => one.done)) $("instructions").showModal();
}

begin().catch(stop);
