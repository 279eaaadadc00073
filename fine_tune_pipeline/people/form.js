"use strict";
// What all forms have in common. Each says by itself: isOpen(row), line(row, by), rows(), show(), and what the keys do.
const handout = JSON.parse(document.getElementById("handout").textContent);
const element = (id) => document.getElementById(id);
let answers = {};
let place = 0;

const known = (row) => row.content || row.id;
const given = (row) => answers[known(row)] || {};
const kept = (row) => Object.fromEntries(Object.entries(given(row)).filter((entry) => entry[1] !== ""));
const begun = (row) => Object.keys(kept(row)).length > 0;

function load() {
  try {
    const found = JSON.parse(localStorage.getItem(handout.storage) || "{}");
    answers = found.answers || {};
    element("by").value = found.by || "";
  } catch (error) {
    say("This browser keeps nothing for this page: download before you close it.", true);
  }
}

function save() {
  try {
    localStorage.setItem(handout.storage, JSON.stringify({ by: element("by").value, answers }));
  } catch (error) {
    say("This browser cannot keep what you enter: download before you close it.", true);
  }
}

function say(text, warning) {
  element("status").textContent = text;
  element("status").classList.toggle("warning", Boolean(warning));
}

// One field set of radio buttons; labels are shown, values are kept.
function choices(parent, name, values, labels) {
  values.forEach((value, number) => {
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = "radio";
    input.name = name;
    input.value = value;
    input.addEventListener("change", () => set(name, value));
    label.append(input, " " + (labels ? labels[number] : value));
    parent.append(label);
  });
}

function question(parent, name, said, values, labels) {
  const box = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = said;
  box.append(legend);
  choices(box, name, values, labels);
  parent.append(box);
}

function set(name, value) {
  const row = handout.rows[place];
  answers[known(row)] = { ...given(row), [name]: value };
  save();
  show();
}

function cycle(name, values) {
  const now = values.indexOf(given(handout.rows[place])[name]);
  set(name, now + 1 < values.length ? values[now + 1] : "");
}

function go(step) {
  const shown = rows();
  const to = shown[shown.indexOf(handout.rows[place]) + step];
  if (to === undefined) return say(step > 0 ? "That was the last one; download what you said." : "This is the first one.");
  place = handout.rows.indexOf(to);
  say("");
  show();
  element("prompt").scrollTop = 0;
}

// Only what is decided, one line a row.
function lines() {
  const by = element("by").value.trim();
  return handout.rows.filter((row) => !isOpen(row)).map((row) => JSON.stringify(line(row, by)));
}

function download() {
  if (element("by").value.trim() === "") {
    say("Write your name first: every verdict carries it.", true);
    return element("by").focus();
  }
  const found = lines();
  if (found.length === 0) return say("Nothing is decided yet.", true);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([found.join("\n") + "\n"], { type: "application/jsonl" }));
  link.download = "verdicts.jsonl";
  link.click();
  const open = handout.rows.filter((row) => isOpen(row) && begun(row)).length;
  say(found.length + " verdicts downloaded" + (open ? "; " + open + " are begun, but without a verdict, and left out" : "") + ". Put the file into the folder handed_in.", open > 0);
}

// Keys of the form work wherever nobody types.
function listen(keys) {
  document.addEventListener("keydown", (event) => {
    const field = event.target;
    if (event.key === "Escape") return field.blur();
    const typing = field.tagName === "TEXTAREA" || field.tagName === "SELECT" || (field.tagName === "INPUT" && field.type !== "radio");
    if (handout.rows.length === 0 || typing || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
}

function begin(keys) {
  element("by").addEventListener("input", save);
  element("which").addEventListener("change", show);
  element("previous").addEventListener("click", () => go(-1));
  element("next").addEventListener("click", () => go(1));
  element("download").addEventListener("click", download);
  listen({ j: () => go(1), ArrowRight: () => go(1), k: () => go(-1), ArrowLeft: () => go(-1), n: () => element("note").focus(), d: download, ...keys });
  load();
  if (handout.rows.length > 0) show(); else say("Nothing waits for a verdict.");
}
