// The page: drop or choose images, see one closely or many as tiles, save the table.
// Every image goes to this server alone; nothing is stored.
"use strict";

const get = (id) => document.getElementById(id);
const form = get("form"), input = get("file"), drop = get("drop"), tiles = get("tiles");
let items = []; // one per image: its file, and what the server answered
let run = 0; // a new choice ends the one before

document.documentElement.classList.add("scripted");
input.required = false;

form.addEventListener("submit", (event) => event.preventDefault());
input.addEventListener("change", () => start([...input.files]));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") start([...event.dataTransfer.files]);
  });
}
get("sort").addEventListener("change", show);
get("csv").addEventListener("click", save);

async function start(files) {
  if (!files.length) return;
  const own = ++run;
  items = files.map((file, place) => ({ file, place }));
  get("answer").replaceChildren();
  get("many").hidden = files.length < 2;
  show();
  for (const item of items) {
    say(files.length > 1 ? `Image ${item.place + 1} of ${files.length} ...` : "Looking ...");
    Object.assign(item, await ask(item.file, files.length < 2));
    if (own !== run) return;
    if (files.length < 2) reveal(item);
    else update(item);
  }
  const bad = items.filter((item) => item.error).length;
  say(files.length > 1 ? `${files.length - bad} images classified, ${bad} not. ` +
    "Choose one to see it closely." : "");
  input.value = "";
  show();
}

async function ask(file, close) {
  const body = new FormData();
  body.append("file", file);
  try {
    const answer = await fetch(close ? "/image" : "/image?brief=1",
      { method: "POST", body, headers: { Accept: "application/json" } });
    const kind = answer.headers.get("Content-Type") || "";
    return kind.startsWith("application/json") ? await answer.json() : { error: await answer.text() };
  } catch {
    return { error: "The server does not answer; is it still running?" };
  }
}

function reveal(item) {
  const main = get("answer");
  if (item.error) {
    const line = document.createElement("p");
    line.className = "warning";
    line.textContent = `Not classified: ${item.error}`;
    main.replaceChildren(line);
  } else {
    main.innerHTML = item.html; // escaped by the server
  }
  (main.querySelector("h2") || main).focus();
}

async function look(item) {
  if (!item.html && !item.error) {
    const before = get("status").textContent;
    say(`Looking at ${item.file.name} ...`);
    Object.assign(item, await ask(item.file, true));
    say(before);
  }
  reveal(item);
  get("answer").scrollIntoView({ block: "start" });
}

const orders = {
  given: (a, b) => a.place - b.place,
  name: (a, b) => a.file.name.localeCompare(b.file.name, undefined, { numeric: true }),
  answer: (a, b) => (a.answer || "").localeCompare(b.answer || ""),
  unsure: (a, b) => (a.sure ?? -1) - (b.sure ?? -1),
  unlike: (a, b) => Number(a.familiar !== false) - Number(b.familiar !== false),
};

function show() {
  const order = orders[get("sort").value];
  tiles.replaceChildren(...[...items].sort((a, b) => order(a, b) || a.place - b.place).map(tile));
}

function update(item) {
  if (item.tile) item.tile.replaceWith(tile(item));
}

function tile(item) {
  const line = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  const picture = document.createElement("img");
  picture.alt = "";
  picture.src = item.thumbnail || "data:,";
  picture.hidden = !item.thumbnail;
  button.append(picture, text("b", item.answer || (item.error ? "not classified" : "...")));
  if (item.sure !== undefined) button.append(text("span", `${Math.round(100 * item.sure)}%`));
  if (item.familiar === false) button.append(text("span", "unlike training", "flag"));
  button.append(text("small", item.error || item.file.name));
  button.disabled = !item.answer && !item.error;
  button.addEventListener("click", () => look(item));
  line.append(button);
  item.tile = line;
  return line;
}

function text(name, content, kind) {
  const element = document.createElement(name);
  element.textContent = content;
  if (kind) element.className = kind;
  return element;
}

function save() {
  const known = items.filter((item) => item.row);
  if (!known.length) return say("No image is classified yet.");
  const cell = (value) => /[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  const lines = [known[0].header, ...known.map((item) => item.row)];
  const table = lines.map((line) => line.map(cell).join(",") + "\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

function say(message) {
  get("status").textContent = message;
}
