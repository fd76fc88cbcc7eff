"use strict";
// A video that is shown while it is made: fragments that the server sends go into a media source.
const KIND = 'video/mp4; codecs="avc1.640028, mp4a.40.2"';
const Source = window.MediaSource ?? window.ManagedMediaSource;

const canWatch = () => Boolean(Source?.isTypeSupported(KIND));

const until = (target, name) => new Promise((done) => target.addEventListener(name, done, { once: true }));

// Plays what comes from `path` in `view`, and calls `begun` with the first fragment. Resolves to true when all of it
// came and the view still shows it; false when the browser cannot go on. Aborting `signal` ends the request.
async function watch(view, path, signal, begun) {
  const source = new Source();
  const url = URL.createObjectURL(source);
  view.disableRemotePlayback = true; // else a managed source does not open
  view.src = url;
  const stays = () => view.src === url && source.readyState === "open" && !signal.aborted;
  try {
    const [response] = await Promise.all([fetch(path, { cache: "no-store", signal }), until(source, "sourceopen")]);
    if (!response.ok || !stays()) return false;
    const buffer = source.addSourceBuffer(KIND);
    const reader = response.body.getReader();
    let parts = 0;
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      if (!stays()) return false;
      const added = until(buffer, "updateend");
      buffer.appendBuffer(part.value);
      await added;
      if (parts++ === 0) begun();
    }
    if (!stays() || !parts) return false;
    source.endOfStream();
    return true;
  } catch { // cancelled, cut off, or more than the browser keeps: the finished file is shown instead
    return false;
  } finally {
    URL.revokeObjectURL(url);
  }
}
