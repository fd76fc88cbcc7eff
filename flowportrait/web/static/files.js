"use strict";
// What goes in: portraits and a recording. `chosen` holds ids that the server knows, with names.
const chosen = { portrait: [], audio: null };
const KEPT = "flowportrait:chosen";
const NOTHING = {
  portrait: "No picture yet. Choose one, take one, or drop one here.",
  audio: "No recording yet. Choose one, record one, or drop one here.",
};

const wrong = (field, message) => Object.assign(new Error(message), { field });

function show(url) {
  const view = $("audio-view");
  if (view.src.startsWith("blob:")) URL.revokeObjectURL(view.src);
  if (url) view.src = url; else view.removeAttribute("src");
  view.hidden = !url;
}

// Draws what is chosen, and keeps it so that a page that is loaded again shows the same.
function showChosen() {
  const { portrait, audio } = chosen;
  $("portraits").replaceChildren(...portrait.map((one, index) => {
    const remove = element("button", { type: "button", className: "remove", textContent: "×", title: `Leave out ${one.name}` });
    remove.setAttribute("aria-label", remove.title);
    remove.addEventListener("click", () => { portrait.splice(index, 1); showChosen(); });
    return element("li", {}, element("img", { src: one.url, alt: `The portrait: ${one.name}` }), remove);
  }));
  $("portrait-name").textContent = portrait.map((one) => one.name).join(", ") || NOTHING.portrait;
  $("audio-name").textContent = audio?.name || NOTHING.audio;
  $("add").hidden = !portrait.length;
  $("make").textContent = portrait.length > 1 ? `Make ${portrait.length} videos` : "Make the video";
  for (const button of $("portrait-samples").children) button.setAttribute("aria-pressed", String(portrait.some((one) => one.id === button.value)));
  const known = ({ id, name, sample }) => ({ id, name, sample });
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ portrait: portrait.map(known), audio: audio && known(audio) }));
  } catch { /* private windows keep nothing */ }
}

async function send(kind, file) {
  $(`${kind}-name`).textContent = `Sending ${file.name} …`;
  if (file.size > settings.limits.max_upload_bytes) {
    throw wrong(kind, `${file.name}: over ${Math.round(settings.limits.max_upload_bytes / 2 ** 20)} MB; give a smaller file`);
  }
  const { id } = await ask(`/api/files/${kind}?name=${encodeURIComponent(file.name)}`, { method: "PUT", body: file });
  return { id, name: file.name, url: URL.createObjectURL(file) };
}

// Takes files in place of those before, or beside them. A file that cannot be used costs only itself.
async function choose(kind, files, beside = false) {
  if (!files.length) return;
  quiet(kind, "form");
  const taken = [];
  for (const file of kind === "audio" ? files.slice(0, 1) : files) {
    try {
      taken.push(await send(kind, file));
    } catch (error) { complain(error.field ? error : wrong(kind, error.message)); }
  }
  if (taken.length) {
    if (kind === "portrait") chosen.portrait = beside ? [...chosen.portrait, ...taken] : taken;
    else { chosen.audio = taken[0]; show(taken[0].url); }
  } else if (!beside) forgetChosen(kind);
  showChosen();
}

function useSample(kind, name) {
  quiet(kind, "form");
  const sample = { id: name, name: `${name} (a sample)`, url: `/api/samples/${name}`, sample: true };
  if (kind === "portrait") chosen.portrait = [sample];
  else { chosen.audio = sample; show(sample.url); }
  showChosen();
}

function forgetChosen(kind) {
  if (kind === "portrait") chosen.portrait = [];
  else { chosen.audio = null; show(""); }
}

// What was chosen before the page was loaded again, as far as the server still has it.
async function restoreChosen() {
  let kept;
  try { kept = JSON.parse(sessionStorage.getItem(KEPT)); } catch { return; }
  if (!kept) return;
  const there = new Set((await ask("/api/files")).map((file) => file.id));
  const found = (one) => one && (one.sample || there.has(one.id))
    ? { ...one, url: one.sample ? `/api/samples/${one.id}` : `/api/files/${one.id}` } : null;
  chosen.portrait = kept.portrait.map(found).filter(Boolean);
  chosen.audio = found(kept.audio);
  if (chosen.audio) show(chosen.audio.url);
}

function takeDrops() {
  for (const card of document.querySelectorAll(".drop")) {
    card.addEventListener("dragover", (event) => { event.preventDefault(); card.classList.add("over"); });
    card.addEventListener("dragleave", () => card.classList.remove("over"));
    card.addEventListener("drop", (event) => {
      event.preventDefault();
      card.classList.remove("over");
      choose(card.dataset.kind, [...event.dataTransfer.files]);
    });
  }
}
