"use strict";
const part = id => document.getElementById(id);
const drop = part("drop"), file = part("file"), state = part("status"), preview = part("preview");
let latest = 0;

function say(text, bad) {
  state.textContent = text;
  state.classList.toggle("bad", Boolean(bad));
}

function row(found) {
  const item = document.createElement("li"), share = document.createElement("span");
  const bar = document.createElement("div"), filled = document.createElement("div");
  share.className = "share";
  share.textContent = (100 * found.probability).toFixed(2) + " %";
  bar.className = "bar";
  filled.style.width = 100 * found.probability + "%";
  bar.append(filled);
  item.append(share, found.label, bar);
  return item;
}

async function classify(image) {
  const own = ++latest;
  say("Looking at " + (image.name || "the picture") + " …");
  part("result").hidden = true;
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(image);
  const started = performance.now();
  try {
    const answer = await fetch("v1/classify", {
      method: "POST", body: image, headers: {"content-type": "application/octet-stream"},
    });
    const text = await answer.text();
    if (own !== latest) return;
    let found;
    try { found = JSON.parse(text) } catch { found = {error: text} }
    if (!answer.ok) {
      say(found.error || "The server answered " + answer.status + ".", true);
      return;
    }
    part("classes").replaceChildren(...found.classes.map(row));
    part("result").hidden = false;
    say("Answered in " + Math.round(performance.now() - started) + " ms.");
  } catch {
    if (own === latest) say("The server cannot be reached.", true);
  }
}

function take(images) {
  if (images && images.length) classify(images[0]);
}

preview.addEventListener("load", () => preview.classList.toggle("small", preview.naturalWidth < 100));
file.addEventListener("change", () => { take(file.files); });
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, event => { event.preventDefault(); drop.classList.add("over"); });
}
document.addEventListener("dragleave", event => { if (!event.relatedTarget) drop.classList.remove("over"); });
document.addEventListener("drop", event => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer.files);
});
document.addEventListener("paste", event => { take(event.clipboardData.files); });
