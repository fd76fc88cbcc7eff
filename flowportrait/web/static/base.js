"use strict";
// What both pages use. Scripts share one scope: this one is loaded first.
const $ = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw Object.assign(new Error("The server does not answer. What is on this page is kept; try again."), { field: "" });
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(body.message || `The server answers ${response.status}; try again.`), { field: body.field || "" });
  return body;
}
